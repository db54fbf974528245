"""`push`: what arrives on a fake of the hub is the model that was sent, with a card that keeps what is private."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints.opened import load_model, open_model
from gpt_tf2.cli import main
from gpt_tf2.commands.find_model import find_model_path
from gpt_tf2.commands.training_facts import read_facts
from helpers.exporting import write_wide_model
from helpers.fake_hub import TOKEN, FakeHub, fake_hub
from helpers.markers import skip_on_jax

pytestmark = skip_on_jax  # one backend is enough
PUSH = ["push", "output/boats.h5", "ada/boats"]
RUN = """
data = "/home/ada/private/letters.txt"
task = "text"
model = "hf://bob/base@v1"
objective = "likelihood"
sample_prompt = "My address is"
epochs = 8
lr = 0.003
"""
VALIDATIONS = [(0, 6.0), (100, 3.0), (200, 2.5), (300, 2.75)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub without a model. The current folder has `output/boats.h5`, and what its run left."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    from gpt_tf2.checkpoints.formats import write_checkpoint
    from gpt_tf2.checkpoints.read_tensors import ReadTensors

    model = open_model(write_wide_model(tmp_path / "wide"))
    write_checkpoint("output/boats.h5", model.config, ReadTensors(model.checkpoint))
    run = Path("output/boats")
    shutil.copytree("wide", run, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    (run / "run.toml").write_text(RUN)
    lines = [{"step": step, "time": 1.0, "loss/validation": loss} for step, loss in VALIDATIONS]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 301, "lo')
    Path("output/boats.png").write_bytes(b"\x89PNG of a curve")
    scores = {"text": {"/home/ada/private/held.txt": {"perplexity per token": 12.25, "tokens": 1000}}}
    Path("output/boats_text_test.scores.json").write_text(json.dumps(scores))
    Path("output/boats_2_text_test.scores.json").write_text(json.dumps({"text": {"another's": {"perplexity": 1}}}))
    with fake_hub(tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def list_files(hub: FakeHub) -> dict[str, bytes]:
    return hub.commits["ada/boats"][hub.refs["ada/boats"]["main"]]


def test_what_is_pushed_opens_again_with_equal_logits(hub: FakeHub, capfd: pytest.CaptureFixture) -> None:
    assert main([*PUSH, "--license=mit"]) == 0
    assert capfd.readouterr().out == f"{hub.url}/ada/boats\n" and hub.visibility == {"ada/boats": "private"}
    pushed = find_model_path("hf://ada/boats")
    tokens = np.arange(60).reshape(1, 60)
    assert np.array_equal(load_model(pushed)(tokens), load_model("output/boats.h5")(tokens))
    text = "The boats, and 12 lanterns."
    assert open_model(pushed).tokenizer.encode(text) == open_model("output/boats.h5").tokenizer.encode(text)
    files = list_files(hub)
    assert files["loss.png"] == b"\x89PNG of a curve"
    header, card = files["README.md"].decode().split("---\n", 2)[1:]
    assert {"base_model: bob/base", "license: mit", "library_name: transformers"} <= {*header.splitlines()}
    assert "trained from [bob/base](https://huggingface.co/bob/base) on `letters.txt`" in card
    assert "lr = 0.003\n" in card and "![Loss by step](loss.png)" in card and "## Limitations\n" in card
    assert "2.5 nats per token (perplexity 12.18), after step 200, the best of 3 validations" in card
    assert "| text | perplexity per token | tokens |" in card and "| held.txt | 12.25 | 1000 |" in card
    assert not any(private in card for private in ("/home", "ada/private", "address", "another's"))


def test_pushed_again_a_card_that_was_made_ones_own_stays_and_old_files_go(
    hub: FakeHub, capfd: pytest.CaptureFixture
) -> None:
    assert main(PUSH) == 0
    hub.commit("ada/boats", list_files(hub) | {"chat_template.jinja": b"{{ of another }}", "mine.txt": b"kept"})
    assert main(PUSH) == 0 and "somebody's own" not in capfd.readouterr().err
    assert "chat_template.jinja" not in list_files(hub) and "mine.txt" in list_files(hub)
    hub.commit("ada/boats", list_files(hub) | {"README.md": b"# My boats"})
    assert main(PUSH) == 0 and "README.md is somebody's own, and is kept\n" in capfd.readouterr().err
    assert list_files(hub)["README.md"] == b"# My boats"


def test_nothing_becomes_public_that_was_not_asked_for(hub: FakeHub, capfd: pytest.CaptureFixture) -> None:
    before = hub.commit("ada/boats", {"README.md": b"# For all"})
    hub.visibility["ada/boats"] = "public"
    assert main(PUSH) == 2
    assert "is there, and public: add --public, or choose another name\n" in capfd.readouterr().err
    assert hub.refs["ada/boats"]["main"] == before
    assert main(["push", "wide", "ada/new", "--public"]) == 0
    assert hub.visibility["ada/new"] == "public"
    card = hub.commits["ada/new"][hub.refs["ada/new"]["main"]]["README.md"].decode()
    assert "## Training" not in card and "- Nothing was measured." in card and "license" not in card


def test_a_token_that_is_missing_or_refused_is_one_line(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(PUSH) == 2
    err = capfd.readouterr().err
    assert err.startswith("gpt-tf2 push: --token: the hub asks for one that may write: set HF_TOKEN")
    assert main([*PUSH, "--token=hf_wrong"]) == 2
    err = capfd.readouterr().err
    assert "the hub answers 401: check your token" in err and err.count("\n") == 1 and "hf_wrong" not in err
    assert not hub.commits


def test_the_last_weights_have_the_last_validation(hub: FakeHub) -> None:
    shutil.copy("output/boats.h5", "output/boats-last.h5")
    facts = read_facts(Path("output/boats-last.h5"))
    assert facts.validation == (300, 2.75) and facts.validations == 0 and facts.curve == Path("output/boats.png")
    assert facts.scores == {}
