"""A loaded model: the command line's texts and figures, streams, threads, and errors that name parameters."""

import itertools
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import gpt_tf2
from gpt_tf2 import GPT2, InputError, LanguageModel
from gpt_tf2.cli import main
from gpt_tf2.decoding.keras_graph import GraphDecoder
from helpers.workplace import STORY, fill_workplace, list_names

PROMPTS = ["The tide", "", "A lantern é"]
WILD = {"top_k": 0, "max_new_tokens": 30}  # of the tiny model, whose weights are random


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    fill_workplace(folder)
    return folder


@pytest.fixture(scope="module")
def lm(folder: Path) -> LanguageModel:
    return gpt_tf2.load(folder / "models" / "tiny")


@pytest.mark.parametrize(
    ("flags", "keywords"),
    [
        ([], {}),
        (["--top_p=0.9", "--temperature=1.3"], {"top_p": 0.9, "temperature": 1.3}),
        (
            ["--top_k=0", "--min_length=5", "--repetition_penalty=1.2", "--n_samples=3"],
            {"top_k": 0, "min_length": 5, "repetition_penalty": 1.2, "n_samples": 3},
        ),
    ],
)
def test_the_text_is_that_of_the_command_line(
    lm: LanguageModel,
    folder: Path,
    flags: list[str],
    keywords: dict[str, Any],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    shared = ["--model=models/tiny", "--prompt=The tide", "--seed=3", "--max_new_tokens=12", "--json"]
    assert main(["generate", *shared, *flags]) == 0
    printed = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    texts = lm.generate("The tide", seed=3, max_new_tokens=12, **keywords)
    assert printed == (texts if "n_samples" in keywords else [texts])


def test_a_list_gives_a_list_whatever_runs_at_a_time(lm: LanguageModel) -> None:
    texts = lm.generate(PROMPTS, seed=1, n_samples=2, **WILD)
    assert [len(samples) for samples in texts] == [2, 2, 2] and len({*itertools.chain(*texts)}) == 6
    assert lm.generate(PROMPTS, seed=1, n_samples=2, batch_size=1, draft=True, **WILD) == texts
    whole = lm.generate(tuple(PROMPTS), seed=1, n_samples=2, include_prompt=True, **WILD)
    assert whole == [[prompt + text for text in samples] for prompt, samples in zip(PROMPTS, texts, strict=True)]
    assert lm.generate(PROMPTS[:1], seed=1, **WILD) == [lm.generate(PROMPTS[0], seed=1, **WILD)]
    assert lm.generate([]) == []
    assert lm.generate("The", min_length=30, **WILD) != lm.generate("The", min_length=30, **WILD)  # no seed


def test_a_stop_text_ends_a_sample(lm: LanguageModel) -> None:
    text = lm.generate("The", seed=1, **WILD)
    stops = [text[9:11], text[5:8]]
    assert lm.generate("The", seed=1, stop=stops, **WILD) == text[: min(map(text.find, stops))]
    assert "".join(lm.stream("The", seed=1, stop=stops[0], **WILD)) == text[: text.find(stops[0])]


def test_a_stream_yields_the_text_while_it_is_generated(lm: LanguageModel) -> None:
    for seed in range(3):
        pieces = list(lm.stream("The tide", seed=seed, **WILD))
        assert "".join(pieces) == lm.generate("The tide", seed=seed, **WILD) and all(pieces)
        assert len(pieces) > 5
    assert next(lm.stream("The tide", include_prompt=True)) == "The tide"


def test_a_text_may_go_on_beyond_the_context(
    lm: LanguageModel, folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {"top_k": 0, "max_new_tokens": 100, "min_length": 100, "seed": 1, "beyond_context": True}
    text = lm.generate("The" * 70, **rules)
    assert "".join(lm.stream("The" * 70, **rules)) == text
    monkeypatch.chdir(folder)
    flags = [f"--{name}={value}" for name, value in rules.items() if name != "beyond_context"]
    assert (
        main(["generate", "--model=models/tiny", f"--prompt={'The' * 70}", "--json", *flags, "--beyond_context"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["text"] == text


def test_a_stream_runs_only_when_it_is_read(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    monkeypatch.setattr(LanguageModel, "_take_turns", lambda self, steps: (held.append(True) or item for item in steps))
    stream = lm.stream("The tide", seed=1, max_new_tokens=60, top_k=0)
    assert not held
    next(stream)
    assert len(held) < 20
    stream.close()


def test_a_stream_that_nobody_reads_keeps_nobody_waiting(lm: LanguageModel) -> None:
    expected = lm.generate("The tide", seed=1, **WILD), lm.generate("A", seed=2, **WILD)
    stream = lm.stream("The tide", seed=1, **WILD)
    begun = next(stream)
    assert lm.generate("A", seed=2, **WILD) == expected[1]  # in the same thread
    others: list[str] = []
    thread = threading.Thread(target=lambda: others.append(lm.generate("A", seed=2, **WILD)), daemon=True)
    thread.start()
    thread.join(20)
    assert others == [expected[1]]
    assert begun + "".join(stream) == expected[0]


def test_threads_get_what_calls_one_after_another_get(lm: LanguageModel) -> None:
    lm.perplexity("The tide")  # compiled, so that the threads meet in the decoder
    calls = [
        *(lambda seed=seed: lm.generate(PROMPTS, seed=seed, n_samples=2, **WILD) for seed in range(4)),
        *(lambda seed=seed: "".join(lm.stream("The boats", seed=seed, **WILD)) for seed in range(4)),
        *(lambda: lm.perplexity(STORY[:300]) for _ in range(2)),
        *(lambda: id(lm.model) for _ in range(2)),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(len(calls)) as threads:
        assert [future.result(60) for future in [threads.submit(call) for call in calls]] == expected


def test_the_perplexity_is_that_of_the_command_line(
    lm: LanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    text = STORY[:900] + " é<|endoftext|>\nThe end."
    Path("t.txt").write_text(text)
    assert main(["evaluate", "--data=t.txt", "--model=models/tiny", "--output=p.txt"]) == 0
    figures = json.loads(Path("p.scores.json").read_text())["text"]["t.txt"]
    assert lm.perplexity(text) == pytest.approx(figures["perplexity per token"], rel=1e-5)
    scored = lm.logprobs(text)
    assert len(scored) == figures["tokens"] > 5 * 64
    assert math.exp(-sum(token.logprob for token in scored) / len(scored)) == pytest.approx(lm.perplexity(text))
    assert [token.id for token in scored] == lm.tokenizer.encode(text, allow_special=True)
    assert "".join(token.token for token in scored[:20]) == lm.tokenizer.decode([token.id for token in scored[:20]])


def test_logprobs_are_those_of_transformers(lm: LanguageModel, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    lm.save(tmp_path / "hf" / "model.safetensors")
    vocabulary = ["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    assert list_names(tmp_path / "hf") == sorted(
        ["config.json", "generation_config.json", "model.safetensors", *vocabulary]
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    scored = lm.logprobs(STORY[:60])
    ids = torch.tensor([[lm.tokenizer.end_of_text, *(token.id for token in scored)]])
    assert ids.shape[1] <= lm.config.n_ctx
    expected = torch.log_softmax(theirs(ids).logits[0, :-1].double(), -1).gather(1, ids[0, 1:, None])[:, 0]
    assert np.allclose([token.logprob for token in scored], expected.detach().numpy(), atol=1e-4)


def test_the_model_is_keras_s_and_what_is_changed_in_it_is_saved(folder: Path, tmp_path: Path) -> None:
    lm = gpt_tf2.load(folder / "models" / "tiny", engine="graph")
    assert isinstance(lm.model, GPT2) and lm.model is lm.model and lm.model.compute_dtype == "float32"
    before = lm.generate("The tide", temperature=0, max_new_tokens=5)
    for variable in lm.model.trainable_variables:
        variable.assign(keras.ops.roll(variable.value, 1, axis=0))
    after = lm.generate("The tide", temperature=0, max_new_tokens=5)
    lm.save(tmp_path / "m.h5")
    assert before != after == gpt_tf2.load(tmp_path / "m.h5").generate("The tide", temperature=0, max_new_tokens=5)


def test_bfloat16_that_nobody_asked_for_scores_in_float32(lm: LanguageModel, folder: Path) -> None:
    opened = lm._opened
    decoder = GraphDecoder(opened.load(precision="bfloat16", held="bfloat16"))
    exact, rounded = lm.perplexity(STORY[:300]), LanguageModel(opened, decoder).perplexity(STORY[:300])
    assert LanguageModel(opened, decoder, exact=False).perplexity(STORY[:300]) == pytest.approx(exact, rel=1e-5)
    assert rounded != pytest.approx(exact, rel=1e-5) and rounded == pytest.approx(exact, rel=0.05)


def test_nothing_is_printed(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, caplog: Any) -> None:
    lm = gpt_tf2.load(folder / "models" / "tiny")
    lm.save(tmp_path / "new.h5")
    with caplog.at_level("INFO", "gpt_tf2"):
        lm = gpt_tf2.load(tmp_path / "new.h5")  # is converted first, where LiteRT runs it
    lm.generate("The", max_new_tokens=2)
    assert capfd.readouterr() == ("", "")
    assert ("converted in" in caplog.text) == (keras.backend.backend() == "tensorflow")
    assert "new.h5" in repr(lm)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.generate("The", top_p=1.5), "top_p=1.5: use more than 0, at most 1"),
        (
            lambda lm: lm.generate("The", max_new_token=5),
            "unknown parameter max_new_token: did you mean max_new_tokens?",
        ),
        (lambda lm: lm.generate("The", n_samples=0), "n_samples=0: use a whole number, at least 1"),
        (lambda lm: lm.generate("The", stop=""), "stop='': give a text that is not empty"),
        (lambda lm: lm.generate("The", stop=5), "stop=5: give a text that is not empty, or a list of them"),
        (lambda lm: lm.stream("The", stop={}), "stop={}: give a text that is not empty, or a list of them"),
        (lambda lm: lm.generate("The", stop=["a", 5]), r"stop=\['a', 5\]: give a text"),
        (lambda lm: lm.generate("The", include_prompt=2), "include_prompt=2: use True or False"),
        (lambda lm: lm.stream("The", include_prompt="no"), "include_prompt='no': use True or False"),
        (lambda lm: lm.generate("The", draft="off"), "draft='off': use True or False"),
        (lambda lm: lm.generate("The", max_new_tokens=5, min_length=6), "min_length=6: use 0 to 5, the max_new_tokens"),
        (lambda lm: lm.generate("The" * 99), "prompt has 99 tokens, n_ctx of .* is 64: shorten it to 63 or fewer"),
        (lambda lm: lm.generate(["The", "The" * 64]), r"prompt\[1\] has 64 tokens"),
        (lambda lm: lm.generate(["The", 5]), "prompt=5: use a text or a list of texts"),
        (lambda lm: lm.generate(5), "prompt=5: use a text or a list of texts"),
        (lambda lm: lm.stream("The", temperature=-1), "temperature=-1: use 0 or more"),
        (lambda lm: lm.stream(["The"]), r"prompt=\['The'\]: use a text"),
        (lambda lm: lm.perplexity(""), "text='': empty: give a text to score"),
        (lambda lm: lm.logprobs(b"The"), "text=b'The': use a text"),
        (lambda lm: lm.save("m.bin"), "m.bin: unknown format .bin"),
        (lambda lm: gpt_tf2.load("no/model"), "no/model: no such model"),
        (lambda lm: gpt_tf2.load(lm.path, precision="float8"), "precision=float8: use auto, float32 or bfloat16"),
        (lambda lm: gpt_tf2.load(lm.path, quantize="int8", precision="float32"), "contradicts quantize int8"),
    ],
)
def test_errors_name_the_parameter(lm: LanguageModel, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(lm)
