"""Samples that go on when the context is full, against a loop without a cache. Runs on either backend."""

import functools
from collections.abc import Callable

import keras
import numpy as np
import pytest

from gpt_tf2 import Tokenizer, load_model
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.generation.completions import CompletionRules, Prompt, Sample, complete_prompts
from gpt_tf2.generation.samples import spawn_generators
from gpt_tf2.generation.sampling import MinimumLength, Sampler, make_sampler
from gpt_tf2.generation.text_stream import TextStream
from helpers.litert import convert_to_litert
from helpers.workplace import OPENAI_TINY

N_CTX = 64
TOKENS = np.load(OPENAI_TINY / "expected.npz")["tokens"]
SHORT, LONG = TOKENS[0, :58].tolist(), TOKENS.ravel()[:150].tolist()
GREEDY, DRAWN = make_sampler(0), make_sampler(1.3, repetition_penalty=1.1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")


@pytest.fixture(scope="module", params=["graph", "litert", "device"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    is_jax, model = keras.backend.backend() == "jax", load_model(OPENAI_TINY)
    if request.param == "litert":
        if is_jax:
            pytest.skip("LiteRT's graphs are made by TensorFlow")
        return convert_to_litert(OPENAI_TINY / "model.ckpt", model.config, tmp_path_factory.mktemp("litert"))
    decoder = GraphDecoder(model)
    if request.param == "device" and not is_jax:
        pytest.skip("the loop on the device runs on JAX")
    decoder.loops_on_device = request.param == "device"
    return decoder


@pytest.fixture(scope="module")
def go_on(tokenizer: Tokenizer) -> Callable[..., tuple[str, int]]:
    """The reference: each token by a forward pass over all of its context, which is halved once it is full."""
    model = load_model(OPENAI_TINY)

    @functools.cache
    def predict(*ids: int) -> np.ndarray:
        return np.asarray(model(np.array([[*ids, *[0] * (N_CTX - len(ids))]])))[0, len(ids) - 1]

    def run(prompt: list[int], count: int, sampler: Sampler, min_length: int = 0, seed: int = 0) -> tuple[str, int]:
        context, stream = list(prompt), TextStream(tokenizer)
        (generator,) = spawn_generators(seed, 1)
        while stream.tokens < count:
            if len(context) >= N_CTX:
                context = context[-N_CTX // 2 :]
            logits = predict(*context)
            if stream.tokens < min_length:
                logits = MinimumLength(tokenizer.end_of_text, N_CTX)(logits, context)
            id = sampler.choose(logits, context, generator)
            if id == tokenizer.end_of_text:
                break
            context.append(id)
            stream.add(id)
        return stream.finish(), stream.tokens

    return run


def complete(decoder: Decoder, tokenizer: Tokenizer, rules: CompletionRules, *prompts: list[int]) -> list[Sample]:
    texts = [Prompt("", prompt) for prompt in prompts]
    return list(filter(None, complete_prompts(decoder, tokenizer, texts, rules)))


@pytest.mark.parametrize("draft", [False, True])
def test_greedy_texts_are_those_of_a_loop_without_a_cache(
    decoder: Decoder, tokenizer: Tokenizer, go_on: Callable, draft: bool
) -> None:
    rules = CompletionRules(GREEDY, 42, min_length=42, slots=2, draft=draft, beyond_context=True)
    samples = complete(decoder, tokenizer, rules, SHORT, LONG)
    assert [sample.ended for sample in samples] == ["length"] * 2
    for sample, prompt in zip(samples, [SHORT, LONG], strict=True):
        assert (sample.text, sample.tokens) == go_on(prompt, 42, GREEDY, min_length=42)


def test_draws_go_on_where_the_full_context_left_them(decoder: Decoder, tokenizer: Tokenizer, go_on: Callable) -> None:
    if decoder.loops_on_device:
        pytest.skip("the device draws by numbers of its own")
    rules = CompletionRules(DRAWN, 42, min_length=30, seed=3, beyond_context=True)
    (sample,) = complete(decoder, tokenizer, rules, SHORT)
    assert (sample.text, sample.tokens) == go_on(SHORT, 42, DRAWN, min_length=30, seed=3)
    assert sample.tokens > N_CTX - len(SHORT)


def test_samples_do_not_depend_on_what_runs_beside_them(decoder: Decoder, tokenizer: Tokenizer) -> None:
    samples = {}
    for slots in (1, 3):
        rules = CompletionRules(DRAWN, 42, min_length=42, n_samples=5, seed=1, slots=slots, beyond_context=True)
        samples[slots] = complete(decoder, tokenizer, rules, SHORT)
    assert samples[1] == samples[3] and len({sample.text for sample in samples[1]}) == 5
    assert {sample.tokens for sample in samples[1]} == {42}


def test_a_sample_that_fills_its_context_goes_on_before_others_begin(decoder: Decoder, tokenizer: Tokenizer) -> None:
    shown: list[str] = []
    rules = CompletionRules(GREEDY, 42, min_length=42, n_samples=3, beyond_context=True)
    prompts = [Prompt("", SHORT)]
    steps = complete_prompts(decoder, tokenizer, prompts, rules, shown.append)
    first = next(filter(None, steps))
    assert "".join(shown) == first.text and first.tokens == 42


def test_a_stop_text_may_span_two_contexts(decoder: Decoder, tokenizer: Tokenizer) -> None:
    room = N_CTX - len(SHORT)
    whole, before, after = (
        complete(decoder, tokenizer, CompletionRules(GREEDY, count, min_length=count, beyond_context=True), SHORT)[0]
        for count in (20, room, room + 4)
    )
    stop = whole.text[len(before.text) - 2 : len(after.text)]
    assert len(stop) > 3 and whole.text.find(stop) == len(before.text) - 2
    rules = CompletionRules(GREEDY, 20, min_length=20, stops=(stop,), beyond_context=True)
    (sample,) = complete(decoder, tokenizer, rules, SHORT)
    assert sample.ended == "stop" and sample.text == whole.text[: len(before.text) - 2]


def test_without_it_a_sample_ends_with_the_context(decoder: Decoder, tokenizer: Tokenizer) -> None:
    (sample,) = complete(decoder, tokenizer, CompletionRules(GREEDY, 90, min_length=6), SHORT)
    assert (sample.tokens, sample.ended) == (N_CTX - len(SHORT), "context")
