"""The sampling rules against their definitions, and draft tokens, which must not change what is drawn."""

import itertools

import numpy as np
import pytest

from gpt_tf2 import GPT2Config
from gpt_tf2.decoding.decoder import NO_IDS, State
from gpt_tf2.decoding.kernels.drawing import choose_token, draw_token
from gpt_tf2.generation.samples import sample_tokens
from gpt_tf2.generation.sampling import (
    FrequencyPenalty,
    LogitBias,
    MinimumLength,
    MinP,
    Nucleus,
    PresencePenalty,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopK,
    make_sampler,
)
from gpt_tf2.generation.token_logprobs import RecordingSampler

NO_END = -1
LOGITS = np.log(np.array([0.05, 0.4, 0.01, 0.3, 0.04, 0.2], "float32"))
IDS = [1, 1, 4]  # the sequence so far


@pytest.fixture(params=[10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def draws(request: pytest.FixtureRequest) -> int:
    """How many tokens are drawn."""
    return request.param


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
        # Of the three that top-k leaves, 0.4 / 0.9 and 0.3 / 0.9 are the fewest to reach 0.7.
        (make_sampler(top_k=3, top_p=0.7), [0, 0.4, 0, 0.3, 0, 0]),
        (make_sampler(2.0, top_k=2), [0, 0.4**0.5, 0, 0.3**0.5, 0, 0]),
        (make_sampler(min_p=0.5), [0, 0.4, 0, 0.3, 0, 0.2]),
        (make_sampler(min_p=0.6), [0, 0.4, 0, 0.3, 0, 0]),
        # The logits are negative: those of tokens in the sequence are doubled, which squares their probabilities.
        (make_sampler(repetition_penalty=2.0), [0.05, 0.16, 0.01, 0.3, 0.0016, 0.2]),
        (Sampler((MinimumLength(1, 9),)), [0.05, 0, 0.01, 0.3, 0.04, 0.2]),
    ],
)
def test_draws_follow_the_rule(sampler: Sampler, expected: list[float], draws: int) -> None:
    logits = sampler.apply_rules(LOGITS, IDS)
    room = np.empty_like(logits)
    tokens = np.array([draw_token(logits, uniform, room) for uniform in np.random.default_rng(11).random(draws)])
    assert chi_square(tokens, expected) < 20.6  # exceeded once in a thousand times with 5 degrees of freedom


@pytest.mark.parametrize(
    "sampler",
    [
        *(make_sampler(*numbers) for numbers in itertools.product((0.7, 1), (0, 1, 40), (0.8, 1), (0, 0.02))),
        make_sampler(temperature=0),
        make_sampler(top_k=100_000),
        Sampler((TopK(5),), greedy=True),
    ],
)
def test_a_decoder_with_a_samplers_choice_draws_the_samplers_tokens(sampler: Sampler) -> None:
    choice, draw = sampler.as_choice(), np.random.default_rng(12)
    assert choice
    for size in draw.integers(1, 3000, 20):
        logits = draw.normal(0, 3, size).astype("float32")
        logits[1 : draw.integers(1, size + 1)] = -np.inf
        numbers = np.random.default_rng(size)
        token = choose_token(logits.copy(), np.array(choice, "float64"), numbers.random(), np.empty_like(logits))
        assert token == sampler.choose(logits, [], np.random.default_rng(size))


@pytest.mark.parametrize(
    "sampler",
    [
        make_sampler(repetition_penalty=2),
        Sampler((MinimumLength(1, 9), Temperature(2))),
        Sampler((Nucleus(0.5), TopK(4))),  # in another order
        RecordingSampler(top=1, record=print),
    ],
)
def test_other_rules_make_no_choice(sampler: Sampler) -> None:
    assert sampler.as_choice() is None


def chi_square(tokens: np.ndarray, expected: list[float] | np.ndarray) -> float:
    counts = np.bincount(tokens, minlength=len(expected))
    share = np.asarray(expected) / np.sum(expected)
    assert (counts[share == 0] == 0).all()
    kept = share > 0
    return ((counts - share * len(tokens))[kept] ** 2 / (share * len(tokens))[kept]).sum()


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
def test_a_draft_does_not_change_what_is_drawn(sampler: Sampler, draws: int) -> None:
    """Draft tokens are sometimes accepted and sometimes rejected; the same tokens are drawn as without them."""
    table = np.log(np.random.default_rng(2).dirichlet(np.ones(6), size=6)).astype("float32")
    decoder = Bigrams(table)
    prompt = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    # A repetition penalty reads the whole sequence at every token.
    count = 10_000 if sampler == make_sampler(repetition_penalty=1.3) else draws
    plain, drafted = (
        sample_tokens(decoder, prompt, 1, count, sampler, NO_END, seed=7, draft=draft)[0] for draft in (False, True)
    )
    assert plain == drafted
    assert decoder.calls < len(drafted) * 1.9
    if sampler.rules and isinstance(sampler.rules[0], MinimumLength):
        return  # its distribution changes at the minimum length
    for token in set(drafted[:-1]):
        next_tokens = np.array([b for a, b in itertools.pairwise(drafted) if a == token])
        assert chi_square(next_tokens, softmax(sampler.apply_rules(table[token], range(6)))) < 20.6


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize(
    "sampler",
    [
        make_sampler(0),
        make_sampler(0, repetition_penalty=1.5),
        make_sampler(),
        make_sampler(0.7, top_k=2),
        make_sampler(top_p=0.5, min_p=0.1, repetition_penalty=0.5),
        make_sampler(top_k=5, top_p=0.99),
    ],
)
def test_ids_without_a_token_are_drawn_as_if_they_had_no_probability(sampler: Sampler, draft: bool) -> None:
    table = np.random.default_rng(0).normal(0, 1.5, (6, 6)).astype("float32")
    table[:, [1, 4]] += 4  # the most likely ones
    without = table.copy()
    without[:, [1, 4]] = -np.inf
    decoder = Bigrams(table)
    assert {1, 4} & {*sample_tokens(decoder, [0], 1, 200, sampler, NO_END, seed=2, draft=draft)[0]}
    decoder.undrawn = np.array([1, 4], "int32")
    drawn = sample_tokens(decoder, [0], 1, 200, sampler, NO_END, seed=2, draft=draft)
    assert drawn == sample_tokens(Bigrams(without), [0], 1, 200, sampler, NO_END, seed=2, draft=draft)
    assert not {1, 4} & {*drawn[0]} and np.isfinite(table).all()


class Bigrams:
    """A decoder whose logits depend on the last token alone."""

    name, config = "bigrams", GPT2Config(n_vocab=6, n_ctx=10**6, n_embd=1, n_head=1, n_layer=1)
    precision, prefill_chunk, loops_on_device, undrawn, drafter = "float32", 128, False, NO_IDS, None

    def __init__(self, table: np.ndarray):
        self.table, self.calls = table, 0

    def begin(self) -> State:
        return State(np.zeros(1, "int32"), [])

    def extend(self, state: State, new: list[list[int]], wanted: list[int]) -> np.ndarray:
        self.calls += 1
        return self.table[new[0][-wanted[0] :]]

    def take(self, state: State, prefixes: list[tuple[int, int]]) -> State:
        return state


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max()).astype("float64")
    return exponents / exponents.sum()


def test_the_nucleus_equals_that_by_a_full_sort() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        logits = draw.normal(0, draw.choice([0.1, 1, 5, 30]), draw.integers(2, 3000)).astype("float32")
        p = draw.choice([1e-9, 0.13, 0.57, 0.81, 0.95, 0.999])
        probabilities = softmax(logits)
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept = np.flatnonzero(Nucleus(p)(logits, []) > -np.inf)
        assert kept.tolist() == sorted(order[before < p])


def test_the_nucleus_of_equal_logits_is_its_share_of_them() -> None:
    assert np.flatnonzero(Nucleus(0.5)(np.zeros(3000, "float32"), []) > -np.inf).tolist() == list(range(1500))


def test_the_first_token_with_a_cumulative_probability_above_the_number_is_drawn() -> None:
    logits = np.random.default_rng(3).normal(0, 2, 3001).astype("float32")
    logits[::3] = -np.inf
    ends = np.cumsum(softmax(logits))
    for uniform in [0, *np.random.default_rng(4).random(500), np.nextafter(1, 0)]:
        assert draw_token(logits, uniform, np.empty_like(logits)) == min(
            np.searchsorted(ends, uniform, side="right"), 2999
        )


def test_temperature_0_and_top_1_are_greedy() -> None:
    assert make_sampler(0) == make_sampler(5e-324) == make_sampler(top_k=1) == Sampler(greedy=True)
    assert make_sampler(0).choose(LOGITS, [], np.random.default_rng(0)) == 1


def test_top_k_keeps_exactly_k_of_equal_logits() -> None:
    assert np.isfinite(TopK(3)(np.zeros(10, "float32"), [])).sum() == 3


def test_the_end_is_ruled_out_before_the_minimum_length() -> None:
    rule = MinimumLength(end=1, tokens=3)
    assert rule(LOGITS, [5, 5])[1] == -np.inf
    assert rule(LOGITS, [5, 5, 5])[1] == LOGITS[1]


def test_rules_do_not_change_their_input() -> None:
    openais = LogitBias((1,), (2.0,)), PresencePenalty(1.0, 0), FrequencyPenalty(1.0, 0)
    usual = Temperature(0.5), TopK(2), Nucleus(0.5), MinP(0.5), RepetitionPenalty(2.0), MinimumLength(1, 9)
    for rule in (*usual, *openais):
        before = LOGITS.copy()
        rule(LOGITS, IDS)
        assert np.array_equal(before, LOGITS)


def test_huge_logits_can_be_drawn_from() -> None:
    logits = np.array([0.0, 1e30, 0.0], "float32")
    for p in (1e-9, 0.8, np.nextafter(1, 0)):
        assert np.flatnonzero(Nucleus(p)(logits, []) > -np.inf).tolist() == [1]
    assert {draw_token(logits, uniform, np.empty_like(logits)) for uniform in (0, 0.5, np.nextafter(1, 0))} == {1}


def test_the_nucleus_of_large_equal_logits_has_one_token() -> None:
    assert np.isfinite(Nucleus(1e-9)(np.full(3000, 1e5, "float32"), [])).sum() == 1


def test_a_nucleus_of_almost_everything_keeps_all_likely_tokens() -> None:
    logits = np.random.default_rng(6).normal(0, 0.5, 50257).astype("float32")
    for p in (1 - 1e-6, 1 - 1e-9, 1 - 1e-12, np.nextafter(1, 0)):
        kept = np.isfinite(Nucleus(p)(logits, []))
        assert softmax(logits)[kept].sum() > 1 - 2e-6


def test_openais_penalties_and_biases_follow_their_formula() -> None:
    logits, ids, prompt_tokens = np.linspace(-1, 1, 8, dtype="float32"), [0, 0, 1, 2, 2, 3, 2], 2
    rules = LogitBias((1, 7), (2.5, -100.0)), PresencePenalty(0.7, prompt_tokens), FrequencyPenalty(-0.3, prompt_tokens)
    biases, generated = {1: 2.5, 7: -100.0}, ids[prompt_tokens:]
    expected = [
        logit + biases.get(i, 0) - (generated.count(i) > 0) * 0.7 + generated.count(i) * 0.3
        for i, logit in enumerate(logits.tolist())
    ]
    np.testing.assert_allclose(Sampler(rules).apply_rules(logits, ids), expected, rtol=1e-6)
    np.testing.assert_array_equal(Sampler(rules[1:]).apply_rules(logits, ids[:prompt_tokens]), logits)
