"""A model with rows that stand for no token: whatever draws, it never draws these. Runs on either backend."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt_tf2
from gpt_tf2 import LanguageModel
from gpt_tf2.checkpoints.opened import open_model, save_model
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.model import GPT2
from helpers import made_up

TOKENS, ROWS = 512, 560
PROMPTS = ["Rain fell over the mill.", "", "The baker"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model and the same with 48 rows without a token, which are the likeliest everywhere."""
    folder = tmp_path_factory.mktemp("padded")
    made_up.write_model(folder / "models" / "small", 96)
    made_up.write_conversations(folder / "talks", train=40, dev=2)
    small = open_model(folder / "models" / "small")
    more = np.random.default_rng(0).normal(0, 1, (ROWS - TOKENS, small.config.n_embd)).astype("float32")

    def read(name: str) -> np.ndarray:
        values = small.checkpoint.read(name)
        return np.concatenate([values, more]) if name == "wte" else values

    padded = GPT2(dataclasses.replace(small.config, n_vocab=ROWS), read=read)
    save_model(padded, folder / "models" / "padded" / "model.safetensors", small.tokenizer)
    return folder


@pytest.fixture
def work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> tuple[LanguageModel, LanguageModel]:
    """The model without these rows, and with them."""
    small, padded = (gpt_tf2.load(folder / "models" / name) for name in ("small", "padded"))
    return small, padded


def test_without_a_vocabulary_they_are_what_is_drawn(models: tuple[LanguageModel, LanguageModel]) -> None:
    """Otherwise the other tests could not fail."""
    assert (models[1].model.generate(np.array([[5, 6, 7]]), max_new_tokens=20)[:, 3:] >= TOKENS).mean() > 0.9


@pytest.mark.parametrize(
    "rules",
    [
        {"temperature": 0},
        {"temperature": 0, "draft": True, "repetition_penalty": 1.3},
        {"top_k": 0},
        {"top_p": 0.9, "min_length": 20, "draft": True},
        {"temperature": 2.0, "top_k": 40, "min_p": 0.01, "repetition_penalty": 0.8},
    ],
)
def test_texts_are_those_of_the_model_without_these_rows(
    models: tuple[LanguageModel, LanguageModel], rules: dict[str, Any]
) -> None:
    small, padded = (lm.generate(PROMPTS, seed=1, max_new_tokens=40, n_samples=2, **rules) for lm in models)
    assert small == padded
    assert "".join(models[1].stream(PROMPTS[0], seed=1, max_new_tokens=40, **rules)) == padded[0][0]


def test_probabilities_are_those_of_all_rows(models: tuple[LanguageModel, LanguageModel]) -> None:
    text = "The captain found the lantern."
    ids = np.array(models[1].tokenizer.encode(text))
    logits = np.asarray(models[1].model(np.array([[models[1].tokenizer.end_of_text, *ids]])), "float64")[0, :-1]
    expected = logits[np.arange(len(ids)), ids] - np.log(np.exp(logits - logits.max()).sum(-1)) - logits.max()
    assert [x for _, _, x in models[1].logprobs(text)] == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.parametrize("flags", [["--engine=graph"], ["--engine=graph", "--draft=on", "--temperature=0"]])
def test_the_graph_and_its_samples(work: Path, flags: list[str], capsys: pytest.CaptureFixture) -> None:
    typed = [
        "--model=padded",
        "--prompt=The",
        "--top_k=0",
        "--max_new_tokens=30",
        "--n_samples=3",
        "--json",
        "--seed=1",
    ]
    assert main(["generate", *typed, *flags]) == 0
    samples = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(samples) == 3 and any(sample["tokens"] == 30 for sample in samples)


@pytest.mark.slow
def test_chat_and_evaluate_and_the_samples_of_a_run(
    work: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("passage.txt").write_text("Once there was a red cat.")
    answers = {}
    for name in ("small", "padded"):
        monkeypatch.setattr("sys.stdin", io.StringIO("What colour was it?\nWhere did it live?\n"))
        assert main(["chat", name, "--passage=passage.txt", "--max_new_tokens=20"]) == 0
        answers[name] = [capsys.readouterr().out]
        typed = ["--task=coqa", "--data=talks", f"--model={name}", "--max_new_tokens=12", "--temperature=0"]
        assert main(["evaluate", *typed, f"--output={name}.json"]) == 0
        answers[name].append(Path(f"{name}.json").read_text())
        capsys.readouterr()
    assert answers["small"] == answers["padded"]
    run_finetune(
        FinetuneSettings(
            data="talks", task="coqa", model="padded", output="m.h5", epochs=1, steps=1, sample_every=1, lr=1e-9
        )
    )
    assert "sample: " in capsys.readouterr().out
