"""`compare`: figures by their definition, and what it refuses."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import Tokenizer, load_model
from gpt_tf2.checkpoints.formats import write_checkpoint
from gpt_tf2.checkpoints.opened import open_weights
from gpt_tf2.cli import main
from helpers.workplace import swap_last_tokens


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture
def other(workplace: Path) -> str:
    """A model with the tokens of `tiny`, other weights, a shorter context and three ids of padding."""
    config, checkpoint = open_weights("models/tiny")
    draw = np.random.default_rng(0)
    tensors = {name: checkpoint.read(name) for name in checkpoint.shapes}
    tensors["wte"] = np.pad(tensors["wte"] + draw.normal(0, 0.02, tensors["wte"].shape), [(0, 3), (0, 0)])
    tensors["wpe"] = tensors["wpe"][:48]
    changed = config.__class__(**{**vars(config), "n_vocab": config.n_vocab + 3, "n_ctx": 48})
    write_checkpoint(Path("models/other/model.safetensors"), changed, {k: v.astype("f") for k, v in tensors.items()})
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(f"models/tiny/{name}", "models/other")
    return "other"


def test_figures_are_those_of_the_definitions(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("story.txt").read_text()[:70]
    Path("t.txt").write_text(text)
    tokenizer = Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    ids = [tokenizer.end_of_text, *tokenizer.encode(text)]
    assert 40 < len(ids) <= 49  # one window of the shorter context
    logits = [np.asarray(load_model(f"models/{name}")(np.array([ids[:-1]])))[0] for name in ("tiny", other)]
    a, b = (log_softmax(each[:, : tokenizer.n_vocab].astype("float64")) for each in logits)
    at = np.arange(len(a)), ids[1:]
    expected = {
        "perplexity of A": math.exp(-a[at].mean()),
        "perplexity of B": math.exp(-b[at].mean()),
        "greedy agreement": (a.argmax(-1) == b.argmax(-1)).mean(),
        "KL(A||B)": (np.exp(a) * (a - b)).sum(-1).mean(),
        "tokens": len(ids) - 1,
    }
    assert main(["compare", "tiny", other, "--data", "t.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(expected, rel=1e-4)
    assert 0 < expected["greedy agreement"] < 1 and expected["KL(A||B)"] > 1e-3


def test_a_model_is_equal_to_itself_on_the_reference(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "tiny", "models/tiny"]) == 0
    a, b, both = capsys.readouterr().out.splitlines()
    perplexity = re.fullmatch(r"A: perplexity ([\d.]+), tiny", a)
    assert perplexity and b == f"B: perplexity {perplexity[1]} (+0.00%), models/tiny"
    text = "1,024 tokens of a page of Python's language reference"
    assert both == f"the same greedy token at 100.00% of {text}, mean KL(A‖B) 0 nats per token"


def test_windows_are_those_of_evaluate(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.txt").write_text(Path("story.txt").read_text()[:700])
    assert main(["compare", "tiny", "tiny", "--data", "t.txt", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "--model", "tiny", "--data", "t.txt", "--output", "e.txt"]) == 0
    evaluated = json.loads(Path("e.scores.json").read_text())["text"]["t.txt"]
    assert compared["tokens"] == evaluated["tokens"] > 3 * 64
    assert compared["perplexity of A"] == pytest.approx(evaluated["perplexity per token"], rel=1e-5)


def test_bad_input_is_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("models/tiny", "models/swapped")
    swap_last_tokens(Path("models/swapped"))
    Path("m.gguf").touch()
    Path("empty.txt").touch()
    for line, problem in {
        "compare tiny swapped": "models/tiny/model.ckpt: compare models with the same vocabulary",
        "compare tiny none": "no such model",
        "compare tiny m.gguf": "m.gguf: llama.cpp's file of a model: turn it into a checkpoint first (gpt-tf2 import m",
        "compare tiny tiny --data empty.txt": "--data empty.txt: no text in it",
        "compare tiny tiny --data none.txt": "none.txt",
    }.items():
        assert main(line.split()) == 2, line
        printed = capsys.readouterr()
        assert problem in printed.err.splitlines()[-1] and not printed.out, line
