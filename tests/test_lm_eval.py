"""The adapter for lm-evaluation-harness, and the server behind it, against the harness's `hf` with the same weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_tf2 import Tokenizer, load_model
from gpt_tf2.checkpoints.opened import save_model
from helpers.exporting import VOCABULARY, write_wide_model
from helpers.markers import skip_on_jax
from helpers.serving import open_served, serving
from helpers.workplace import STORY

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
pytestmark = [pytest.mark.slow, skip_on_jax]

LINES = STORY.splitlines()
TASK = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\ntest_split: test\n"
ROLLING = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
CHOICES = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
GENERATED = """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["t"], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
"""


def write_tasks(folder: Path) -> None:
    """A perplexity, three tasks of choices and one of generated texts. Some texts and the shots exceed the context."""
    draw = np.random.default_rng(0)
    texts = [{"text": "\n".join(LINES[i : i + int(draw.integers(1, 5))])} for i in range(0, 40, 5)]
    endings = [
        {"question": line[:30], "choices": [line[30:], " until the tide", " and so on.", " x"], "answer": i % 4}
        for i, line in enumerate(LINES[:20])
    ]
    letters = [{"question": f"{line} Which?", "choices": [" A", " b"], "answer": i % 2} for i, line in enumerate(LINES)]
    for name, rows, task in (
        ("local_words", texts, ROLLING),
        ("local_endings", endings, CHOICES),
        ("local_letters", letters[:30], CHOICES + "num_fewshot: 1\n"),
        ("local_shots", endings, CHOICES + "num_fewshot: 4\n"),
        ("local_generated", endings, GENERATED),
    ):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(f"task: {name}\n" + TASK.format(file=file) + task)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks, and a model in a folder that transformers opens."""
    folder = tmp_path_factory.mktemp("harness")
    write_tasks(folder)
    model = load_model(write_wide_model(folder / "wide"))
    save_model(model, folder / "hf" / "model.safetensors", Tokenizer(*VOCABULARY))
    return folder


def evaluate(folder: Path, model: str, arguments: dict[str, Any], tasks: list[str]) -> tuple[dict, dict]:
    """The figures of tasks, and the answers to each request."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    import gpt_tf2.lm_eval  # noqa: F401 - registers itself

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    result = lm_eval.simple_evaluate(
        model, arguments, tasks=tasks, task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    figures = {
        f"{task} {name}": value
        for task, values in result["results"].items()
        for name, value in values.items()
        if isinstance(value, float)
    }
    return figures, {task: [sample["resps"] for sample in samples] for task, samples in result["samples"].items()}


def check_equal(ours: tuple[dict, dict], theirs: tuple[dict, dict]) -> None:
    """Figures to 4 digits, log-probabilities to rounding, texts and what is greedy exactly.

    Our texts do not end in half a character, which transformers writes as U+FFFD.
    """
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    for task, answers in theirs[1].items():
        for one, other in zip(ours[1][task], answers, strict=True):
            flat = [np.ravel(np.array(each, dtype=object)).tolist() for each in (one, other)]
            for a, b in zip(*flat, strict=True):
                if isinstance(b, float):
                    assert a == pytest.approx(b, abs=2e-3)
                else:
                    assert str(a).rstrip("\ufffd") == str(b).rstrip("\ufffd")


SERVED = ["local_endings", "local_letters"]  # fit the context, of which the server needs a token to generate
TASKS = [*SERVED, "local_words", "local_shots", "local_generated"]


@pytest.fixture(scope="module")
def expected(folder: Path) -> tuple[dict, dict]:
    return evaluate(folder, "hf", {"pretrained": str(folder / "hf"), "device": "cpu"}, TASKS)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 1}, {"engine": "graph"}])
def test_answers_are_those_of_transformers(folder: Path, expected: tuple[dict, dict], settings: dict) -> None:
    ours = evaluate(folder, "gpt-tf2", {"pretrained": str(folder / "hf"), **settings}, TASKS)
    check_equal(ours, expected)
    assert sorted(len(answers) for answers in ours[1].values()) == [8, 20, 20, 20, 30]
    assert all(len(set(map(str, answers))) > 1 for answers in ours[1].values())  # nothing degenerate is compared


def test_the_server_answers_as_transformers_does(folder: Path, expected: tuple[dict, dict]) -> None:
    hf = folder / "hf"
    with serving(open_served(hf)) as url:
        arguments = {"model": "hf", "base_url": f"{url}/v1/completions", "tokenizer": str(hf), "max_length": 128}
        ours = evaluate(folder, "local-completions", arguments | {"tokenizer_backend": "huggingface"}, SERVED)
    theirs = [{k: v for k, v in expected[part].items() if k.split()[0] in SERVED} for part in (0, 1)]
    check_equal(ours, (theirs[0], theirs[1]))


def test_the_command_line_knows_the_model(folder: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "gpt_tf2.lm_eval", "run", "--model", "gpt-tf2", "--include_path", str(folder)]
    line += ["--tasks", "local_endings", "--limit", "2", "--model_args"]
    done = subprocess.run([*line, f"pretrained={folder / 'hf'}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "|local_endings|" in done.stdout, done.stderr
    done = subprocess.run([*line, "pretrained=none"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("lm_eval: model=none: no such model")
