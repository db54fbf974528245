"""The OpenAPI document, and whether the server keeps to it whatever is asked (schemathesis)."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.serving.schema import describe_api
from gpt_tf2.tasks.chat_template import FILE, ChatTemplate, format_template
from helpers.markers import skip_on_jax
from helpers.serving import open_served, serving


def test_a_model_is_one_of_those_that_are_served_and_required_if_there_are_several() -> None:
    for models, named, required in [
        (["tiny"], ["tiny", None], ["prompt"]),
        (["red", "blue"], ["red", "blue"], ["model", "prompt"]),
    ]:
        paths = describe_api(models)["paths"]
        body = paths["/tokenize"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert (body["properties"]["model"]["enum"], body["required"]) == (named, required)
        (parameter,) = paths["/tokenizer_info"]["get"]["parameters"]
        assert (parameter["schema"]["enum"], parameter["required"]) == (models, len(models) > 1)


@pytest.mark.slow
@skip_on_jax
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis needs Python 3.11")
def test_what_the_schema_allows_and_what_not_is_answered_as_it_says(
    tiny: Path, lm: LanguageModel, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "chatty"))
    (model / FILE).write_text(format_template(ChatTemplate(("T: ", "\n"), ("\nQ: ", ""), ("\nA: ", "!"))))
    models = open_served(model)
    models.load_first()
    flags = [
        "--generation-deterministic",
        "--max-examples=40",
        "--phases=coverage,fuzzing",
        "--exclude-checks=positive_data_acceptance",  # a prompt may be longer than the context, which no schema says
        "--continue-on-failure",
        "--no-color",
    ]
    run = "from schemathesis.cli import schemathesis; schemathesis()"
    with serving(models) as url:
        done = subprocess.run(
            [sys.executable, "-c", run, "run", f"{url}/openapi.json", *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"(\d+) generated", done.stdout)
    assert counted and int(counted[1]) > 500, done.stdout
