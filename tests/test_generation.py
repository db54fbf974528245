"""Sampling rules, the cache and the loop over it. Runs on either backend."""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import OPENAI_TINY, converted

from gpt_tf2 import GPT2, GPT2Config, InputError, Tokenizer, load_model
from gpt_tf2.generation.decoder import Decoder, State
from gpt_tf2.generation.draws import drawn
from gpt_tf2.generation.generate import Generator, Request, appended, sample
from gpt_tf2.generation.graph import GraphDecoder
from gpt_tf2.generation.sampling import (
    MinimumLength,
    MinP,
    Nucleus,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopK,
    make_sampler,
)
from gpt_tf2.generation.writer import Writer

EXPECTED = np.load(OPENAI_TINY / "expected.npz")
GREEDY = EXPECTED["greedy"].tolist()
NO_END = -1
DRAWS = 100_000


@pytest.fixture(scope="module", params=["graph", "litert"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    model = load_model(OPENAI_TINY)
    if request.param == "graph":
        return GraphDecoder(model)
    if keras.backend.backend() != "tensorflow":
        pytest.skip("LiteRT's graphs are made by TensorFlow")
    return converted(OPENAI_TINY, tmp_path_factory.mktemp("litert"))


@pytest.fixture(scope="module")
def full() -> Callable[[list[int]], np.ndarray]:
    """The plain forward pass: ids → logits of what follows each."""
    model = load_model(OPENAI_TINY)
    return lambda ids: np.asarray(model(np.array([ids + [0] * (64 - len(ids))])))[0, : len(ids)]


def greedy(full: Callable[[list[int]], np.ndarray], prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(full(ids)[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("draft", [False, True])
def test_greedy_tokens_are_those_of_openais_graph(decoder: Decoder, draft: bool) -> None:
    rows = sample(decoder, GREEDY[:7], 1, 100, make_sampler(0), NO_END, draft=draft)
    assert GREEDY[:7] + rows[0] == GREEDY


def test_greedy_tokens_without_the_cache_are_those_of_openais_graph(full: Callable[[list[int]], np.ndarray]) -> None:
    assert GREEDY[:7] + greedy(full, GREEDY[:7], 57) == GREEDY


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("places", [1, 3])
def test_rows_of_many_lengths_go_on_as_alone_while_others_take_free_places(
    decoder: Decoder, full: Callable[[list[int]], np.ndarray], places: int, draft: bool
) -> None:
    draw = np.random.default_rng(3)
    prompts = [EXPECTED["tokens"][i % 3, : draw.integers(1, 60)].tolist() for i in range(14)]
    lengths = [int(draw.integers(1, 12)) for _ in prompts]
    found: list[list[int]] = [[] for _ in prompts]

    def requests() -> Iterator[Request]:
        for prompt, length, row in zip(prompts, lengths, found, strict=True):
            write = functools.partial(appended, row)
            yield Request(prompt, length, make_sampler(0), np.random.default_rng(0), write)

    waiting = requests()
    Generator(decoder, NO_END, draft).run(lambda done: next(waiting, None), places)
    for prompt, length, row in zip(prompts, lengths, found, strict=True):
        assert row == greedy(full, prompt, min(length, 64 - len(prompt)))


def test_every_logit_with_the_cache_equals_the_full_pass(
    decoder: Decoder, full: Callable[[list[int]], np.ndarray]
) -> None:
    tokens = EXPECTED["tokens"][1]
    logits = full(tokens.tolist())
    for cuts in ([3, *range(4, 65)], [1, 6, 7, 30, 64], [64]):
        state, begin = decoder.begin(), 0
        for end in cuts:
            found = decoder.extend(state, [tokens[begin:end]])
            assert np.abs(found - logits[begin:end]).max() <= 1e-5 * np.abs(logits).max()
            begin = end


def test_rows_fork_join_are_replaced_and_forget(decoder: Decoder, full: Callable[[list[int]], np.ndarray]) -> None:
    rows = [EXPECTED["tokens"][i, :n].tolist() for i, n in enumerate((9, 30, 2))]
    state = decoder.take(decoder.begin(), [(0, 0)] * 3)
    decoder.extend(state, rows)
    state = decoder.take(state, [(0, 9), (1, 30), (0, 8), (2, 2)])
    assert decoder.extend(state, [[5, 6], [7], [9], []]).shape == (4, 512)
    state = decoder.take(state, [(0, 11), (3, 2), (2, 9), (1, 0)])  # of as many rows
    state = decoder.take(state, [(0, 11), (1, 2), (2, 9)])
    ahead = decoder.extend(state, [[11], [12, 15], [13]], [1, 1, 1])
    for found, ids in zip(ahead, ([*rows[0], 5, 6, 11], [*rows[2], 12, 15], [*rows[0][:8], 9, 13]), strict=True):
        expected = full(ids)[-1]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_n_samples_run_the_prompt_once(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    extend = decoder.extend
    monkeypatch.setattr(
        decoder, "extend", lambda state, rows, wanted: runs.append([*map(len, rows)]) or extend(state, rows, wanted)
    )
    rows = sample(decoder, GREEDY[:7], 5, 20, make_sampler(1.0), NO_END, seed=1)
    assert runs == [[7, 0, 0, 0, 0]] + [[1] * 5] * 19
    assert len({tuple(row) for row in rows}) == 5


def test_requests_may_end_with_what_is_known(decoder: Decoder) -> None:
    found: list[list[int]] = [[] for _ in range(5)]
    requests = [
        Request(GREEDY[:7], count, make_sampler(0), np.random.default_rng(0), functools.partial(appended, row))
        for count, row in zip((2, 1, 1, 3, 1), found, strict=True)
    ]
    for places in (1, 2):
        for row in found:
            row.clear()
        Generator(decoder, NO_END).run_all(requests, places)
        assert found == [GREEDY[7 : 7 + request.new_tokens] for request in requests]


def test_a_prompt_is_run_along_with_other_rows(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    extend = decoder.extend
    monkeypatch.setattr(
        decoder, "extend", lambda state, rows, wanted: runs.append([*map(len, rows)]) or extend(state, rows, wanted)
    )
    monkeypatch.setattr(decoder, "chunk", 8)
    sizes, counts = (3, 20, 6), (2, 2, 4)
    requests = [
        Request(
            EXPECTED["tokens"][i, :size].tolist(), count, make_sampler(0), np.random.default_rng(0), lambda id: True
        )
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]
    Generator(decoder, NO_END).run_all(requests, 2)
    assert runs == [[3, 5], [1, 8], [6, 2], [1, 5], [1, 1], [1]]


def test_rows_wait_for_what_one_behind_them_has_in_common(
    decoder: Decoder, full: Callable[[list[int]], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    extend = decoder.extend
    monkeypatch.setattr(
        decoder, "extend", lambda state, rows, wanted: runs.append([*map(len, rows)]) or extend(state, rows, wanted)
    )
    monkeypatch.setattr(decoder, "chunk", 20)
    first, other, long = (EXPECTED["tokens"][i].tolist() for i in range(3))
    prompts = [first[:3], other[:4], long[:60], [*long[:56], 1], [*long[:56], 2, 3]]
    found: list[list[int]] = [[] for _ in prompts]
    requests = [
        Request(
            prompt,
            1 if len(prompt) < 5 else 4,
            make_sampler(0),
            np.random.default_rng(0),
            functools.partial(appended, row),
        )
        for prompt, row in zip(prompts, found, strict=True)
    ]
    Generator(decoder, NO_END).run_all(requests, 3)
    assert runs[:5] == [[3, 4, 13], [0, 0, 20], [0, 0, 20], [4, 5, 7], [1, 1, 1]]
    for request, row in zip(requests, found, strict=True):
        assert row == greedy(full, request.prompt, request.new_tokens)


def test_what_prompts_have_in_common_is_run_once(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    extend = decoder.extend
    monkeypatch.setattr(
        decoder, "extend", lambda state, rows, wanted: runs.append([*map(len, rows)]) or extend(state, rows, wanted)
    )
    passage = EXPECTED["tokens"][0, :40].tolist()
    prompts = iter([[*passage, 1, 2], [*passage, 3, 4, 5], [*passage, 3, 4, 5, 6]])

    def following(done: Request | None) -> Request | None:
        prompt = next(prompts, None)
        return prompt and Request(prompt, 2, make_sampler(0), np.random.default_rng(0), lambda id: True)

    Generator(decoder, NO_END).run(following, 1)
    assert runs == [[42], [1], [3], [1], [1], [1]]


def test_a_seed_gives_the_same_rows_whatever_their_number(decoder: Decoder) -> None:
    sampler = make_sampler(0.9, top_k=40)
    rows = sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4)
    assert rows == sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4)
    assert rows == sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4, draft=True)
    assert rows[:2] == sample(decoder, GREEDY[:7], 2, 20, sampler, NO_END, seed=4)
    assert rows != sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=5)


def test_each_row_stops_on_its_own(decoder: Decoder) -> None:
    free = sample(decoder, GREEDY[:7], 6, 40, make_sampler(1.0), NO_END, seed=2)
    end = free[0][5]
    assert any(end not in row for row in free)
    stopped = sample(decoder, GREEDY[:7], 6, 40, make_sampler(1.0), end, seed=2)
    assert stopped == [row[: row.index(end)] if end in row else row for row in free]


def test_the_context_ends_the_text(decoder: Decoder) -> None:
    prompt = EXPECTED["tokens"][2, :60].tolist()
    assert len(sample(decoder, prompt, 2, 50, make_sampler(0), NO_END)[0]) == 4
    with pytest.raises(InputError, match=r"64 tokens, n_ctx is 64"):
        sample(decoder, EXPECTED["tokens"][2].tolist(), 1, 1, make_sampler(0), NO_END)


LOGITS = np.log(np.array([0.05, 0.4, 0.01, 0.3, 0.04, 0.2], "float32"))
IDS = [1, 1, 4]  # what stands before


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (make_sampler(), [0.05, 0.4, 0.01, 0.3, 0.04, 0.2]),
        (make_sampler(0.5), np.square([0.05, 0.4, 0.01, 0.3, 0.04, 0.2])),
        (make_sampler(top_k=3), [0, 0.4, 0, 0.3, 0, 0.2]),
        (make_sampler(top_k=9), [0.05, 0.4, 0.01, 0.3, 0.04, 0.2]),
        (make_sampler(top_p=0.6), [0, 0.4, 0, 0.3, 0, 0]),
        (make_sampler(top_p=0.75), [0, 0.4, 0, 0.3, 0, 0.2]),
        (make_sampler(top_p=1e-9), [0, 1, 0, 0, 0, 0]),
        # Of the three that top-k leaves, 0.4 / 0.9 and 0.3 / 0.9 are the first to reach 0.7.
        (make_sampler(top_k=3, top_p=0.7), [0, 0.4, 0, 0.3, 0, 0]),
        (make_sampler(2.0, top_k=2), [0, 0.4**0.5, 0, 0.3**0.5, 0, 0]),
        (make_sampler(min_p=0.5), [0, 0.4, 0, 0.3, 0, 0.2]),
        (make_sampler(min_p=0.6), [0, 0.4, 0, 0.3, 0, 0]),
        # The logits are negative: what has been said has its own doubled, its probability squared.
        (make_sampler(repetition_penalty=2.0), [0.05, 0.16, 0.01, 0.3, 0.0016, 0.2]),
        (Sampler((MinimumLength(1, 9),)), [0.05, 0, 0.01, 0.3, 0.04, 0.2]),
    ],
)
def test_draws_follow_the_rule_by_chi_square(sampler: Sampler, expected: list[float]) -> None:
    logits = sampler.narrowed(LOGITS, IDS)
    draws = np.array([drawn(logits, uniform) for uniform in np.random.default_rng(11).random(DRAWS)])
    assert chi_square_of(draws, expected) < 20.6  # at most 5 degrees of freedom, one in a thousand


def chi_square_of(draws: np.ndarray, expected: list[float] | np.ndarray) -> float:
    counts = np.bincount(draws, minlength=len(expected))
    share = np.asarray(expected) / np.sum(expected)
    assert (counts[share == 0] == 0).all()
    kept = share > 0
    return ((counts - share * len(draws))[kept] ** 2 / (share * len(draws))[kept]).sum()


@pytest.mark.parametrize(
    "sampler",
    [
        make_sampler(),
        make_sampler(0.5),
        make_sampler(top_k=3),
        make_sampler(top_p=0.7),
        make_sampler(min_p=0.3),
        make_sampler(repetition_penalty=1.3),
        Sampler((MinimumLength(1, 3_000),)),
    ],
)
def test_drafting_does_not_change_what_is_drawn(sampler: Sampler) -> None:
    """A model that repeats its prompt with probability 0.7 is guessed right and wrong, and must be drawn as alone."""
    table = np.log(np.random.default_rng(2).dirichlet(np.ones(6), size=6)).astype("float32")
    decoder = Bigrams(table)
    prompt = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    count = DRAWS // 10 if sampler == make_sampler(repetition_penalty=1.3) else DRAWS  # it looks at all of the text
    plain, drafted = (
        sample(decoder, prompt, 1, count, sampler, NO_END, seed=7, draft=draft)[0] for draft in (False, True)
    )
    assert plain == drafted
    assert decoder.calls < len(drafted) * 1.9
    if sampler.rules and isinstance(sampler.rules[0], MinimumLength):
        return  # it changes on the way
    for token in set(drafted[:-1]):
        draws = np.array([b for a, b in itertools.pairwise(drafted) if a == token])
        assert chi_square_of(draws, softmax(sampler.narrowed(table[token], range(6)))) < 20.6


class Bigrams:
    """A decoder in which a token depends on the one before alone."""

    name, config = "bigrams", GPT2Config(n_vocab=6, n_ctx=10**6, n_embd=1, n_head=1, n_layer=1)
    chunk = 128

    def __init__(self, table: np.ndarray):
        self.table, self.calls = table, 0

    def begin(self) -> State:
        return State(np.zeros(1, "int32"), [])

    def extend(self, state: State, rows: list[list[int]], wanted: list[int]) -> np.ndarray:
        self.calls += 1
        return self.table[rows[0][-wanted[0] :]]

    def take(self, state: State, places: list[tuple[int, int]]) -> State:
        return state


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max()).astype("float64")
    return exponents / exponents.sum()


def test_the_nucleus_is_that_of_a_full_sort() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        logits = draw.normal(0, draw.choice([0.1, 1, 5, 30]), draw.integers(2, 3000)).astype("float32")
        p = draw.choice([1e-9, 0.13, 0.57, 0.81, 0.95, 0.999])
        probabilities = softmax(logits)
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept = np.flatnonzero(Nucleus(p)(logits, []) > -np.inf)
        assert kept.tolist() == sorted(order[before < p])


def test_the_nucleus_of_equal_ones_is_their_share() -> None:
    assert np.flatnonzero(Nucleus(0.5)(np.zeros(3000, "float32"), []) > -np.inf).tolist() == list(range(1500))


def test_a_draw_is_the_first_id_above_it() -> None:
    logits = np.random.default_rng(3).normal(0, 2, 3001).astype("float32")
    logits[::3] = -np.inf
    ends = np.cumsum(softmax(logits))
    for uniform in [0, *np.random.default_rng(4).random(500), np.nextafter(1, 0)]:
        assert drawn(logits, uniform) == min(np.searchsorted(ends, uniform, side="right"), 2999)


def test_greedy_and_temperature_zero_and_top_1_are_one() -> None:
    assert make_sampler(0) == make_sampler(top_k=1) == Sampler(greedy=True)
    assert make_sampler(0).choose(LOGITS, [], np.random.default_rng(0)) == 1


def test_top_k_keeps_just_k_of_equal_ones() -> None:
    assert np.isfinite(TopK(3)(np.zeros(10, "float32"), [])).sum() == 3


def test_the_end_waits_for_the_minimum_length() -> None:
    rule = MinimumLength(end=1, tokens=3)
    assert rule(LOGITS, [5, 5])[1] == -np.inf
    assert rule(LOGITS, [5, 5, 5])[1] == LOGITS[1]


def test_rules_leave_their_input_alone() -> None:
    for rule in (Temperature(0.5), TopK(2), Nucleus(0.5), MinP(0.5), RepetitionPenalty(2.0), MinimumLength(1, 9)):
        before = LOGITS.copy()
        rule(LOGITS, IDS)
        assert np.array_equal(before, LOGITS)


def test_huge_logits_are_drawn_from() -> None:
    logits = np.array([0.0, 1e30, 0.0], "float32")
    for p in (1e-9, 0.8, np.nextafter(1, 0)):
        assert np.flatnonzero(Nucleus(p)(logits, []) > -np.inf).tolist() == [1]
    assert {drawn(logits, uniform) for uniform in (0, 0.5, np.nextafter(1, 0))} == {1}


def test_the_nucleus_of_large_equal_logits_is_one_at_least() -> None:
    assert np.isfinite(Nucleus(1e-9)(np.full(3000, 1e5, "float32"), [])).sum() == 1


def test_a_nucleus_of_almost_all_loses_no_likely_token() -> None:
    logits = np.random.default_rng(6).normal(0, 0.5, 50257).astype("float32")
    for p in (1 - 1e-6, 1 - 1e-9, 1 - 1e-12, np.nextafter(1, 0)):
        kept = np.isfinite(Nucleus(p)(logits, []))
        assert softmax(logits)[kept].sum() > 1 - 2e-6


def test_the_graph_sees_weights_that_change() -> None:
    model = GPT2(load_model(OPENAI_TINY).config, seed=1)
    own = GraphDecoder(model)
    before = own.extend(own.begin(), [[1, 2, 3]])
    model.tensors()["wte"].assign(np.asarray(model.tensors()["wte"]) * 2)
    assert not np.array_equal(before, own.extend(own.begin(), [[1, 2, 3]]))


def test_a_writer_shows_whole_characters_and_nothing_of_a_stop_text(gpt2_vocabulary: tuple[Path, Path]) -> None:
    tokenizer = Tokenizer(*gpt2_vocabulary)
    text = "naïve 🎻 café, then QED and more"
    for stops, expected in (([], text), (["QED"], "naïve 🎻 café, then "), (["Q", "the"], "naïve 🎻 café, ")):
        shown: list[str] = []
        writer = Writer(tokenizer, stops, shown.append)
        for id in tokenizer.encode(text):
            if not writer.add(id):
                break
        assert writer.finish() == "".join(shown) == expected
        assert "\ufffd" not in writer.text
        assert writer.stopped == bool(stops)
    half = Writer(tokenizer)
    half.add(tokenizer.encode("🎻")[0])
    assert half.finish() == ""
