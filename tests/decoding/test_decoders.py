"""The decoders on what takes a larger model: prompts of up to 900 tokens, and drafting where the model copies."""

import functools
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from gpt_tf2 import GPT2, GPT2Config, save_model
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.generation.sampling import make_sampler
from gpt_tf2.generation.scheduler import Generator, Request, appended, sample
from gpt_tf2.model import random_tensors
from helpers.processes import converted

LONG = GPT2Config(n_vocab=300, n_ctx=1024, n_embd=48, n_head=3, n_layer=2)
SHORT = GPT2Config(n_vocab=50, n_ctx=128, n_embd=64, n_head=4, n_layer=2)
HALF = 40  # tokens that are said, and then said again
NO_END = -1


def decoder_of(model: GPT2, kind: str, folder: Path) -> Decoder:
    if kind == "graph":
        return GraphDecoder(model)
    if keras.backend.backend() != "tensorflow":
        pytest.skip("LiteRT's graphs are made by TensorFlow")
    save_model(model, folder / "model.safetensors")
    return converted(folder / "model.safetensors", folder)


@pytest.mark.parametrize("kind", ["graph", "litert"])
@pytest.mark.parametrize("places", [1, 8])
def test_prompts_of_up_to_900_tokens_go_on_as_the_full_pass_says(kind: str, places: int, tmp_path: Path) -> None:
    model = GPT2(LONG, read=random_tensors(LONG, seed=1, std=0.3))
    draw = np.random.default_rng(5)
    sizes = [1, 900, *draw.integers(2, 900, 48)]
    prompts = [draw.integers(0, LONG.n_vocab, size).tolist() for size in sizes]
    found: list[list[int]] = [[] for _ in prompts]
    requests = [
        Request(prompt, int(draw.integers(2, 9)), make_sampler(0), draw, functools.partial(appended, row))
        for prompt, row in zip(prompts, found, strict=True)
    ]
    Generator(decoder_of(model, kind, tmp_path), NO_END).run_all(requests, places)
    padded = np.zeros((10, LONG.n_ctx), "int32")
    for first in range(0, 50, 10):
        for line, prompt, row in zip(padded, prompts[first:], found[first:], strict=False):
            line[: len(prompt) + len(row)] = prompt + row
        likeliest = np.asarray(model(padded)).argmax(-1)
        for i in range(first, first + 10):
            end = len(prompts[i]) - 1
            assert found[i] == likeliest[i - first, end : end + requests[i].new_tokens].tolist()
    assert len({tuple(row) for row in found}) > 40


@pytest.fixture(scope="module")
def copier() -> GPT2:
    """A model that was trained to say again what its prompt says."""
    model = GPT2(SHORT, read=random_tensors(SHORT, seed=0, std=0.1))
    said = np.random.default_rng(0).integers(1, SHORT.n_vocab, (8_000, HALF))
    rows = np.concatenate([said, said], axis=1)
    again = np.broadcast_to(np.arange(2 * HALF - 1) >= HALF - 1, (len(rows), 2 * HALF - 1)).astype("float32")
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(rows[:, :-1], rows[:, 1:], sample_weight=again, batch_size=32, verbose=0)
    return model


@pytest.mark.parametrize("kind", ["graph", "litert"])
def test_drafting_is_faster_where_the_model_copies_and_costs_nothing_else(
    kind: str, copier: GPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(copier, kind, tmp_path)
    prompt = np.random.default_rng(1).integers(1, SHORT.n_vocab, HALF).tolist()
    steps: list[int] = []
    extend = decoder.extend
    monkeypatch.setattr(decoder, "extend", lambda state, rows, wanted: steps.append(1) or extend(state, rows, wanted))

    def run(draft: bool, temperature: float) -> tuple[list[int], int, float]:
        sampler = make_sampler(temperature)
        sample(decoder, prompt, 1, HALF, sampler, NO_END, 1, draft)
        steps.clear()
        began = time.monotonic()
        (row,) = sample(decoder, prompt, 1, HALF, sampler, NO_END, 1, draft)
        return row, len(steps), len(row) / (time.monotonic() - began)

    plain, drafted = run(False, 0), run(True, 0)
    assert plain[0] == drafted[0] and np.mean(np.array(plain[0]) == prompt) > 0.9
    assert drafted[1] * 1.8 < plain[1]
    free, with_guesses = run(False, 9.0), run(True, 9.0)  # so hot that nothing is copied
    assert free[0] == with_guesses[0] and with_guesses[1] <= free[1]
    print(f"{kind}: {drafted[2] / plain[2]:.2f} × where it copies, {with_guesses[2] / free[2]:.2f} × elsewhere")
