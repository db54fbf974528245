"""Drafting by a model: the tokens are those without it, and there are fewer steps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.decoding.native.decoder import NativeDecoder
from gpt_tf2.decoding.native.packing import convert, runs_natively
from gpt_tf2.generation import model_draft
from gpt_tf2.generation.sampling import Sampler, make_sampler
from gpt_tf2.generation.scheduler import Request, Scheduler
from gpt_tf2.generation.token_logprobs import RecordingSampler, TokenLogprobs

CONFIG = GPT2Config(n_vocab=300, n_ctx=128, n_embd=64, n_head=4, n_layer=2)
SAMPLERS = {
    "greedy": make_sampler(0, repetition_penalty=9.0),
    "sampled": make_sampler(0.7, top_p=0.9, repetition_penalty=1.2),
}
PROMPTS = [np.random.default_rng(i).integers(0, 300, size).tolist() for i, size in enumerate((5, 40, 1, 100, 12, 60))]
NO_END = -1

pytestmark = pytest.mark.skipif(not runs_natively(CONFIG), reason="this processor lacks the instructions")


@pytest.fixture(scope="module")
def make_decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], NativeDecoder]:
    """Makes a decoder of a random model, by its precision and the seed of its weights."""

    def make(precision: str = "float32", seed: int = 1) -> NativeDecoder:
        folder = tmp_path_factory.mktemp("native")
        draw, shapes = np.random.default_rng(seed), tensor_shapes(CONFIG)
        weights = {name: draw.normal(0, 0.3, shape).astype("float32") for name, shape in shapes.items()}
        convert(
            Checkpoint(Path("drawn"), shapes, weights.__getitem__), CONFIG, folder, precision, lambda done, total: None
        )
        return NativeDecoder(folder, CONFIG, precision)

    return make


@pytest.fixture
def decoder(make_decoder: Callable) -> NativeDecoder:
    return make_decoder()


def count_tokens(decoder: NativeDecoder, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """A list that gets the numbers of tokens of each sequence that a decoder runs, step by step."""
    steps: list[list[int]] = []
    extend = decoder.extend
    monkeypatch.setattr(
        decoder, "extend", lambda state, new, wanted: steps.append([*map(len, new)]) or extend(state, new, wanted)
    )
    return steps


def complete(
    decoder: NativeDecoder,
    sampler: Sampler,
    slots: int,
    prompts: list[list[int]],
    end: int = NO_END,
    longest: int = 30,
    draft: bool = False,
) -> list[list[int]]:
    """A completion of each prompt, some of which are ended by `on_token`, and the next number of each generator."""
    completions: list[list[int]] = [[] for _ in prompts]
    requests = []
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        most = longest - 4 * i

        def add(id: int, completion: list[int] = completion, most: int = most) -> bool:
            completion.append(id)
            return len(completion) < most

        requests.append(Request(prompt, longest, sampler, np.random.default_rng(i), add))
    Scheduler(decoder, end, slots, draft).run_all(requests)
    return [[*ids, request.generator.random()] for ids, request in zip(completions, requests, strict=True)]


@pytest.mark.parametrize("rules", SAMPLERS)
@pytest.mark.parametrize("slots", [1, 3])
def test_the_tokens_are_those_without_a_drafter_in_fewer_steps(
    rules: str, slots: int, decoder: NativeDecoder, make_decoder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sequences that end early, in slots that are used again, after prompts that run in parts."""
    sampler, quantized, unrelated = SAMPLERS[rules], make_decoder("int8"), make_decoder("int8", seed=2)
    for each in (decoder, quantized, unrelated):
        monkeypatch.setattr(each, "prefill_chunk", 16)
    steps, drafting = count_tokens(decoder, monkeypatch), count_tokens(quantized, monkeypatch)
    endless = complete(decoder, sampler, slots, PROMPTS)
    end = int(endless[0][15])
    steps.clear()
    plain = complete(decoder, sampler, slots, PROMPTS, end)
    count = len(steps)
    assert any(len(ids) < len(longer) for ids, longer in zip(plain, endless, strict=True))
    for drafter, fewer in ((quantized, 0.8), (unrelated, 1.0)):
        for draft in (False, True):
            decoder.drafter = drafter
            steps.clear()
            assert complete(decoder, sampler, slots, PROMPTS, end, draft=draft) == plain
            assert len(steps) <= fewer * count
    assert max(map(sum, drafting)) <= 16


@pytest.mark.parametrize("rules", SAMPLERS)
def test_a_drafter_with_the_same_logits_is_always_right(
    rules: str, decoder: NativeDecoder, make_decoder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = count_tokens(decoder, monkeypatch)
    decoder.drafter = make_decoder()
    complete(decoder, SAMPLERS[rules], 1, PROMPTS[:1])
    assert steps == [[5], [3], [4], [5], [6], [7], [4]]  # each token of a step gives the next one


def test_a_drafter_that_is_never_right_is_asked_ever_less(
    decoder: NativeDecoder, make_decoder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder.drafter = make_decoder("int8", seed=2)
    drafting = count_tokens(decoder.drafter, monkeypatch)
    complete(decoder, SAMPLERS["greedy"], 1, PROMPTS[:1], longest=100)
    assert drafting == [[6], [1], [1], [1], [1], [1], [2], [3], [5], [9], [17], [33]]  # the tokens since the last draft


def test_where_many_sequences_run_none_is_drafted_on(
    decoder: NativeDecoder, make_decoder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_draft, "COST", 0.8)
    decoder.drafter = make_decoder()
    drafting = count_tokens(decoder.drafter, monkeypatch)
    complete(decoder, SAMPLERS["greedy"], 2, PROMPTS[:1] * 2)
    assert drafting[0] == [5 + 26]  # once the other has ended


def test_a_long_prompt_is_not_drafted_on_for_a_few_tokens(
    decoder: NativeDecoder, make_decoder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder.drafter = make_decoder()
    drafting = count_tokens(decoder.drafter, monkeypatch)
    complete(decoder, SAMPLERS["greedy"], 1, PROMPTS[3:4], longest=5)
    assert not drafting


def test_a_sampler_that_records_sees_real_draws_alone(decoder: NativeDecoder, make_decoder: Callable) -> None:
    recorded: list[TokenLogprobs] = []
    sampler = RecordingSampler((), top=0, record=recorded.append)
    decoder.drafter = make_decoder("int8")
    (ids,) = complete(decoder, sampler, 1, PROMPTS[:1])
    assert [token.id for token in recorded] == ids[:-1]
