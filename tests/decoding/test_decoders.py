"""All decoders against the plain forward pass: logits, moving and forgetting sequences, long prompts, drafts."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from gpt_tf2 import GPT2, GPT2Config, load_model, save_model
from gpt_tf2.decoding.decoder import Decoder, DrawingDecoder
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.decoding.native.packing import runs_natively
from gpt_tf2.generation.samples import sample_tokens
from gpt_tf2.generation.sampling import make_sampler
from gpt_tf2.generation.scheduler import Request, Scheduler
from gpt_tf2.model import random_tensors
from helpers.litert import convert_to_litert
from helpers.markers import slow_on_jax
from helpers.native import convert_to_native
from helpers.workplace import OPENAI_TINY

TOKENS = np.load(OPENAI_TINY / "expected.npz")["tokens"]
LONG = GPT2Config(n_vocab=300, n_ctx=1024, n_embd=48, n_head=3, n_layer=2)
SHORT = GPT2Config(n_vocab=50, n_ctx=128, n_embd=64, n_head=4, n_layer=2)
HALF = 40  # tokens of a sequence that are then repeated
NO_END = -1


def make_decoder(model: GPT2, kind: str, folder: Path) -> Decoder:
    if kind == "graph":
        return GraphDecoder(model)
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the other engines depend on no backend")
    save_model(model, folder / "model.safetensors")
    if kind == "native":
        if not runs_natively(model.config):
            pytest.skip("this processor lacks the instructions")
        return convert_to_native(folder / "model.safetensors", model.config, folder)
    return convert_to_litert(folder / "model.safetensors", model.config, folder)


@pytest.fixture(scope="module")
def tiny() -> GPT2:
    return load_model(OPENAI_TINY)


@pytest.fixture(scope="module", params=["graph", "litert", "native"])
def decoder(request: pytest.FixtureRequest, tiny: GPT2, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return make_decoder(tiny, request.param, tmp_path_factory.mktemp("converted"))


@pytest.fixture(scope="module")
def full_pass(tiny: GPT2) -> Callable[[list[int]], np.ndarray]:
    """The forward pass without a cache: ids → logits of the token after each."""
    return lambda ids: np.asarray(tiny(np.array([ids + [0] * (64 - len(ids))])))[0, : len(ids)]


def test_every_logit_with_the_cache_equals_the_full_pass(
    decoder: Decoder, full_pass: Callable[[list[int]], np.ndarray]
) -> None:
    tokens = TOKENS[1]
    expected = full_pass(tokens.tolist())
    for ends in ([3, *range(4, 65)], [1, 6, 7, 30, 64], [64]):
        state, begin = decoder.begin(), 0
        for end in ends:
            logits = decoder.extend(state, [tokens[begin:end]])
            assert np.abs(logits - expected[begin:end]).max() <= 1e-5 * np.abs(expected).max()
            begin = end


def test_sequences_fork_move_end_and_forget(decoder: Decoder, full_pass: Callable[[list[int]], np.ndarray]) -> None:
    sequences = [TOKENS[i, :n].tolist() for i, n in enumerate((9, 30, 2))]
    state = decoder.take(decoder.begin(), [(0, 0)] * 3)
    decoder.extend(state, sequences)
    state = decoder.take(state, [(0, 9), (1, 30), (0, 8), (2, 2)])
    assert decoder.extend(state, [[5, 6], [7], [9], []]).shape == (4, 512)
    state = decoder.take(state, [(0, 11), (3, 2), (2, 9), (1, 0)])  # the same number of sequences
    state = decoder.take(state, [(0, 11), (1, 2), (2, 9)])
    logits = decoder.extend(state, [[11], [12, 15], [13]], [1, 1, 1])
    extended = [*sequences[0], 5, 6, 11], [*sequences[2], 12, 15], [*sequences[0][:8], 9, 13]
    for computed, ids in zip(logits, extended, strict=True):
        expected = full_pass(ids)[-1]
        assert np.abs(computed - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["graph", "litert", "native"])
def test_an_output_matrix_of_its_own_gives_the_logits(kind: str, tmp_path: Path) -> None:
    config = dataclasses.replace(SHORT, tied=False)
    model = GPT2(config, read=random_tensors(config, seed=1, std=0.3))
    decoder, ids = make_decoder(model, kind, tmp_path), [3, 1, 4, 1, 5]
    logits, expected = decoder.extend(decoder.begin(), [ids]), np.asarray(model(np.array([ids])))[0]
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_graph_uses_the_models_current_weights() -> None:
    model = GPT2(load_model(OPENAI_TINY).config, seed=1)
    decoder = GraphDecoder(model)
    before = decoder.extend(decoder.begin(), [[1, 2, 3]])
    model.tensors()["wte"].assign(np.asarray(model.tensors()["wte"]) * 2)
    assert not np.array_equal(before, decoder.extend(decoder.begin(), [[1, 2, 3]]))


@slow_on_jax
@pytest.mark.parametrize("kind", ["graph", "litert", "native"])
@pytest.mark.parametrize(
    ("slots", "count"),
    [(4, 10), pytest.param(1, 50, marks=pytest.mark.slow), pytest.param(8, 50, marks=pytest.mark.slow)],
)
def test_prompts_of_up_to_900_tokens_are_continued_as_the_full_pass_says(
    kind: str, slots: int, count: int, tmp_path: Path
) -> None:
    model = GPT2(LONG, read=random_tensors(LONG, seed=1, std=0.3))
    draw = np.random.default_rng(5)
    sizes = [1, 900, *draw.integers(2, 900, count - 2)]
    prompts = [draw.integers(0, LONG.n_vocab, size).tolist() for size in sizes]
    completions: list[list[int]] = [[] for _ in prompts]
    requests = [
        Request(prompt, int(draw.integers(2, 9)), make_sampler(0), draw, completion.append)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    Scheduler(make_decoder(model, kind, tmp_path), NO_END, slots).run_all(requests)
    padded = np.zeros((10, LONG.n_ctx), "int32")
    for first in range(0, count, 10):
        for row, prompt, completion in zip(padded, prompts[first:], completions[first:], strict=False):
            row[: len(prompt) + len(completion)] = prompt + completion
        most_likely = np.asarray(model(padded)).argmax(-1)
        for i in range(first, first + 10):
            end = len(prompts[i]) - 1
            assert completions[i] == most_likely[i - first, end : end + requests[i].max_new_tokens].tolist()
    assert len({tuple(completion) for completion in completions}) > 0.8 * count


@pytest.fixture(scope="module")
def copier() -> GPT2:
    """A model that was trained to repeat its prompt."""
    model = GPT2(SHORT, read=random_tensors(SHORT, seed=0, std=0.1))
    prompts = np.random.default_rng(0).integers(1, SHORT.n_vocab, (2_400, HALF))
    sequences = np.concatenate([prompts, prompts], axis=1)
    is_repeated = np.broadcast_to(np.arange(2 * HALF - 1) >= HALF - 1, (len(sequences), 2 * HALF - 1))
    model.compile(keras.optimizers.Adam(4e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    weights = is_repeated.astype("float32")
    model.fit(sequences[:, :-1], sequences[:, 1:], sample_weight=weights, batch_size=16, verbose=0)
    return model


@slow_on_jax
@pytest.mark.parametrize("kind", ["graph", "litert", "native"])
@pytest.mark.slow
def test_a_draft_saves_steps_where_the_model_copies_and_costs_none_elsewhere(
    kind: str, copier: GPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder(copier, kind, tmp_path)
    decoder.loops_on_device = False  # each step is a call, and counted
    prompt = np.random.default_rng(1).integers(1, SHORT.n_vocab, HALF).tolist()
    steps: list[int] = []
    extend = decoder.extend
    monkeypatch.setattr(decoder, "extend", lambda state, new, wanted: steps.append(1) or extend(state, new, wanted))
    if isinstance(decoder, DrawingDecoder):
        draw = decoder.draw

        def count_steps(*arguments: Any) -> np.ndarray:
            tokens = draw(*arguments)
            steps.extend([1] * tokens.shape[1])
            return tokens

        monkeypatch.setattr(decoder, "draw", count_steps)

    def run(draft: bool, temperature: float) -> tuple[list[int], int, float]:
        """The tokens, the steps and the tokens per second of a warm run."""
        sampler = make_sampler(temperature)
        sample_tokens(decoder, prompt, 1, HALF, sampler, NO_END, 1, draft)
        steps.clear()
        began = time.monotonic()
        (ids,) = sample_tokens(decoder, prompt, 1, HALF, sampler, NO_END, 1, draft)
        return ids, len(steps), len(ids) / (time.monotonic() - began)

    plain, drafted = run(False, 0), run(True, 0)
    assert plain[0] == drafted[0] and np.mean(np.array(plain[0]) == prompt) > 0.9
    assert drafted[1] * 1.8 < plain[1]
    hot, hot_drafted = run(False, 9.0), run(True, 9.0)  # so hot that nothing is copied
    assert hot[0] == hot_drafted[0] and hot_drafted[1] <= hot[1]
    print(f"{kind}: {drafted[2] / plain[2]:.2f} × where it copies, {hot_drafted[2] / hot[2]:.2f} × elsewhere")


def test_a_prompt_may_fill_a_context_of_any_length() -> None:
    config = dataclasses.replace(SHORT, n_ctx=70)  # prompts are padded to multiples of 64
    model = GPT2(config, read=random_tensors(config, seed=0))
    ids = np.arange(70) % 50
    decoder = GraphDecoder(model)
    logits = decoder.extend(decoder.begin(), [ids.tolist()])
    np.testing.assert_allclose(logits, np.asarray(model(ids[None]))[0], atol=1e-4)
