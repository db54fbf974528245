"""The scheduler's tokens against the plain forward pass, and what it runs in each step. Runs on either backend."""

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pytest

from gpt_tf2 import InputError, load_model
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.generation.samples import sample_tokens
from gpt_tf2.generation.sampling import make_sampler
from gpt_tf2.generation.scheduler import Request, Scheduler
from helpers.litert import convert_to_litert
from helpers.workplace import OPENAI_TINY

EXPECTED = np.load(OPENAI_TINY / "expected.npz")
GREEDY = EXPECTED["greedy"].tolist()
NO_END = -1


@pytest.fixture(scope="module", params=["graph", "litert"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    model = load_model(OPENAI_TINY)
    if request.param == "graph":
        decoder = GraphDecoder(model)
        decoder.loops_on_device = False  # so that samples, too, run by the scheduler that is tested here
        return decoder
    if keras.backend.backend() != "tensorflow":
        pytest.skip("LiteRT's graphs are made by TensorFlow")
    return convert_to_litert(OPENAI_TINY / "model.ckpt", model.config, tmp_path_factory.mktemp("litert"))


@pytest.fixture
def steps(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many tokens of each sequence the decoder runs, step by step."""
    steps: list[list[int]] = []
    extend = decoder.extend
    monkeypatch.setattr(
        decoder, "extend", lambda state, new, wanted: steps.append([*map(len, new)]) or extend(state, new, wanted)
    )
    return steps


@pytest.fixture(scope="module")
def continue_greedily() -> Callable[..., list[int]]:
    """The reference: each token is the most likely one by a forward pass over the whole sequence, without a cache."""
    model = load_model(OPENAI_TINY)

    @functools.cache
    def compute_logits(*ids: int) -> np.ndarray:
        return np.asarray(model(np.array([[*ids, *[0] * (64 - len(ids))]])))[0, len(ids) - 1]

    def run(prompt: list[int], count: int, undrawn: Sequence[int] = ()) -> list[int]:
        ids = list(prompt)
        for _ in range(count):
            ids.append(max(set(range(model.config.n_vocab)).difference(undrawn), key=compute_logits(*ids).__getitem__))
        return ids[len(prompt) :]

    return run


def greedy_request(prompt: list[int], max_new_tokens: int, completion: list[int], tag: object = None) -> Request:
    return Request(prompt, max_new_tokens, make_sampler(0), np.random.default_rng(0), completion.append, tag)


@pytest.mark.parametrize("draft", [False, True])
def test_greedy_tokens_are_those_of_openais_graph(decoder: Decoder, draft: bool) -> None:
    completions = sample_tokens(decoder, GREEDY[:7], 1, 100, make_sampler(0), NO_END, draft=draft)
    assert GREEDY[:7] + completions[0] == GREEDY


@pytest.mark.parametrize("draft", [False, True])
def test_ids_without_a_token_are_never_drawn(
    decoder: Decoder, continue_greedily: Callable, draft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    undrawn = sorted({*GREEDY[7:]})
    monkeypatch.setattr(decoder, "undrawn", np.array(undrawn, "int32"))
    (completion,) = sample_tokens(decoder, GREEDY[:7], 1, 30, make_sampler(0), NO_END, draft=draft)
    assert completion == continue_greedily(GREEDY[:7], 30, undrawn)
    sampled = sample_tokens(decoder, GREEDY[:7], 3, 50, make_sampler(1.5, top_k=5), NO_END, seed=1, draft=draft)
    assert not {*undrawn} & {id for ids in [completion, *sampled] for id in ids}


def test_greedy_tokens_without_a_cache_are_those_of_openais_graph(continue_greedily: Callable) -> None:
    assert GREEDY[:7] + continue_greedily(GREEDY[:7], 57) == GREEDY


@pytest.mark.parametrize(
    ("slots", "draft"),
    [
        (1, False),
        (3, True),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(3, False, marks=pytest.mark.slow),
    ],
)
def test_each_request_is_completed_as_if_alone_while_others_take_freed_slots(
    decoder: Decoder, continue_greedily: Callable, slots: int, draft: bool
) -> None:
    draw = np.random.default_rng(3)
    prompts = [EXPECTED["tokens"][i % 3, : draw.integers(1, 60)].tolist() for i in range(14)]
    lengths = [int(draw.integers(1, 12)) for _ in prompts]
    completions: list[list[int]] = [[] for _ in prompts]
    scheduler = Scheduler(decoder, NO_END, slots, draft)
    for number, request in enumerate(zip(prompts, lengths, completions, strict=True)):
        scheduler.submit(greedy_request(*request, tag=number))
    finished = []
    for request in scheduler.run():
        assert len(completions[request.tag]) == min(request.max_new_tokens, 64 - len(request.prompt))
        finished.append(request.tag)
    assert sorted(finished) == list(range(14))
    for prompt, length, completion in zip(prompts, lengths, completions, strict=True):
        assert completion == continue_greedily(prompt, min(length, 64 - len(prompt)))


def test_several_samples_run_their_prompt_once(decoder: Decoder, steps: list[list[int]]) -> None:
    completions = sample_tokens(decoder, GREEDY[:7], 5, 20, make_sampler(1.0), NO_END, seed=1)
    assert steps == [[7, 0, 0, 0, 0]] + [[1] * 5] * 19
    assert len({tuple(completion) for completion in completions}) == 5


def test_requests_may_end_with_a_first_token_whose_logits_are_known(decoder: Decoder) -> None:
    completions: list[list[int]] = [[] for _ in range(5)]
    requests = [
        greedy_request(GREEDY[:7], count, completion)
        for count, completion in zip((2, 1, 1, 3, 1), completions, strict=True)
    ]
    for slots in (1, 2):
        for completion in completions:
            completion.clear()
        Scheduler(decoder, NO_END, slots).run_all(requests)
        assert completions == [GREEDY[7 : 7 + request.max_new_tokens] for request in requests]


def test_a_prompt_runs_in_parts_beside_other_sequences(
    decoder: Decoder, steps: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "prefill_chunk", 8)
    sizes, counts = (3, 20, 6), (2, 2, 4)
    requests = [
        greedy_request(EXPECTED["tokens"][i, :size].tolist(), count, [])
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]
    Scheduler(decoder, NO_END, 2).run_all(requests)
    assert steps == [[3, 5], [1, 8], [6, 2], [1, 5], [1, 1], [1]]


def test_sequences_wait_for_a_prefix_that_one_behind_them_computes(
    decoder: Decoder, continue_greedily: Callable, steps: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "prefill_chunk", 20)
    first, other, long = (EXPECTED["tokens"][i].tolist() for i in range(3))
    prompts = [first[:3], other[:4], long[:60], [*long[:56], 1], [*long[:56], 2, 3]]
    completions: list[list[int]] = [[] for _ in prompts]
    requests = [
        greedy_request(prompt, 1 if len(prompt) < 5 else 4, completion)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    Scheduler(decoder, NO_END, 3).run_all(requests)
    assert steps[:5] == [[3, 4, 13], [0, 0, 20], [0, 0, 20], [4, 5, 7], [1, 1, 1]]
    for request, completion in zip(requests, completions, strict=True):
        assert completion == continue_greedily(request.prompt, request.max_new_tokens)


def test_a_shared_prefix_is_computed_once(decoder: Decoder, steps: list[list[int]]) -> None:
    passage = EXPECTED["tokens"][0, :40].tolist()
    prompts = [[*passage, 1, 2], [*passage, 3, 4, 5], [*passage, 3, 4, 5, 6]]
    Scheduler(decoder, NO_END, 1).run_all(greedy_request(prompt, 2, []) for prompt in prompts)
    assert steps == [[42], [1], [3], [1], [1], [1]]


def test_a_conversations_next_turn_runs_in_the_slot_of_its_passage(
    decoder: Decoder, steps: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two conversations side by side; each turn is submitted when the one before it is answered."""
    sources: list[list[int]] = []
    take = decoder.take
    monkeypatch.setattr(
        decoder, "take", lambda state, prefixes: sources.append([i for i, _ in prefixes]) or take(state, prefixes)
    )
    passages = [EXPECTED["tokens"][i, :30].tolist() for i in range(2)]
    scheduler = Scheduler(decoder, NO_END, 2)
    answers: list[list[list[int]]] = [[], []]

    def ask(conversation: int) -> None:
        answers[conversation].append([])
        turns = [id for answer in answers[conversation] for id in (7, *answer)]
        scheduler.submit(
            greedy_request([*passages[conversation], *turns], 2, answers[conversation][-1], tag=conversation)
        )

    ask(0)
    ask(1)
    for request in scheduler.run():
        if len(answers[request.tag]) < 3:
            ask(request.tag)
    assert steps == [[31, 31], [1, 1], [2, 2], [1, 1], [2, 2], [1, 1]]
    assert sources == [[0, 0]] + [[0, 1]] * 5
    assert all(len(answer) == 2 for conversation in answers for answer in conversation)


def test_requests_submitted_on_one_finished_request_take_all_free_slots(
    decoder: Decoder, steps: list[list[int]]
) -> None:
    scheduler = Scheduler(decoder, NO_END, 3)
    prompts = [EXPECTED["tokens"][i, :4].tolist() for i in range(3)]
    finished = []
    scheduler.submit(greedy_request(prompts[0], 1, [], tag=0))
    for request in scheduler.run():
        finished.append(request.tag)
        if request.tag == 0:
            scheduler.submit(greedy_request(prompts[1], 3, [], tag=1))
            scheduler.submit(greedy_request(prompts[2], 2, [], tag=2))
    assert finished == [0, 2, 1]
    assert steps == [[4], [4, 4], [1, 1], [1]]


def test_a_second_run_continues_from_what_is_cached(
    decoder: Decoder, continue_greedily: Callable, steps: list[list[int]]
) -> None:
    scheduler, completions = Scheduler(decoder, NO_END, 1), [[], []]
    scheduler.run_all([greedy_request(GREEDY[:20], 3, completions[0])])
    longer = [*GREEDY[:20], *completions[0], 5, 6]
    scheduler.run_all([greedy_request(longer, 2, completions[1])])
    assert steps == [[20], [1], [1], [3], [1]]  # the third token was never run
    assert completions[1] == continue_greedily(longer, 2)


def test_a_seed_gives_the_same_samples_whatever_their_number(decoder: Decoder) -> None:
    sampler = make_sampler(0.9, top_k=40)
    samples = sample_tokens(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4)
    assert samples == sample_tokens(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4)
    assert samples == sample_tokens(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4, draft=True)
    assert samples[:2] == sample_tokens(decoder, GREEDY[:7], 2, 20, sampler, NO_END, seed=4)
    assert samples != sample_tokens(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=5)


def test_each_sample_stops_at_its_own_end(decoder: Decoder) -> None:
    endless = sample_tokens(decoder, GREEDY[:7], 6, 40, make_sampler(1.0), NO_END, seed=2)
    end = endless[0][5]
    assert any(end not in sample for sample in endless)
    stopped = sample_tokens(decoder, GREEDY[:7], 6, 40, make_sampler(1.0), end, seed=2)
    assert stopped == [sample[: sample.index(end)] if end in sample else sample for sample in endless]


def test_the_end_of_the_context_ends_a_sample(decoder: Decoder) -> None:
    prompt = EXPECTED["tokens"][2, :60].tolist()
    assert len(sample_tokens(decoder, prompt, 2, 50, make_sampler(0), NO_END)[0]) == 4
    with pytest.raises(InputError, match=r"64 tokens, n_ctx is 64"):
        sample_tokens(decoder, EXPECTED["tokens"][2].tolist(), 1, 1, make_sampler(0), NO_END)


def test_a_cancelled_request_ends_at_once_and_the_others_are_as_if_alone(
    decoder: Decoder, continue_greedily: Callable
) -> None:
    prompts = [GREEDY[:7], GREEDY[10:30], GREEDY[5:25], GREEDY[3:9], GREEDY[20:25]]
    completions: list[list[int]] = [[] for _ in prompts]
    requests = [
        greedy_request(prompt, 12, completion, tag=i)
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]
    scheduler = Scheduler(decoder, NO_END, slots=2)
    for request in requests[:4]:
        scheduler.submit(request)
    scheduler.cancel(requests[3])  # which waits
    finished, ends = [], [4, 0]
    for step, request in enumerate(scheduler.steps()):
        finished += [request.tag] if request else []
        if step == 3:  # while both slots run
            scheduler.cancel(requests[0])
            ends = [*map(len, completions)]
            scheduler.submit(requests[4])
    scheduler.cancel(requests[1])  # which is finished: nothing to do
    assert sorted(finished) == [1, 2, 4]
    assert 0 < len(completions[0]) == ends[0] < 12 and completions[3] == []
    for i in finished:
        assert completions[i] == continue_greedily(prompts[i], 12)


def test_a_request_is_cancelled_while_its_prompt_is_computed_or_shared(
    decoder: Decoder, steps: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(decoder), "prefill_chunk", 5)
    completions: list[list[int]] = [[], []]
    requests = [greedy_request(GREEDY[:30], 4, completion) for completion in completions]
    scheduler = Scheduler(decoder, NO_END, slots=2)
    for request in requests:
        scheduler.submit(request)
    for step, _ in enumerate(scheduler.steps()):
        if step == 1:
            scheduler.cancel(requests[1])  # which waits for the other's prompt
        if step == 2:
            scheduler.cancel(requests[0])
    assert completions == [[], []] and len(steps) == 3
