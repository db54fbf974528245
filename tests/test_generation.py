"""Sampling rules, the cache and the loop over it. Runs on either backend."""

import numpy as np
import pytest
from conftest import OPENAI_TINY

from gpt_tf2 import GPT2, InputError, load_model
from gpt_tf2.generation.decoder import Decoder
from gpt_tf2.generation.generate import sample
from gpt_tf2.generation.sampling import Nucleus, Sampler, Temperature, TopK, make_sampler, softmax

EXPECTED = np.load(OPENAI_TINY / "expected.npz")
GREEDY = EXPECTED["greedy"].tolist()
NO_END = -1
DRAWS = 20_000


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(load_model(OPENAI_TINY))


def test_greedy_tokens_with_the_cache_are_those_of_openais_graph(decoder: Decoder) -> None:
    rows = sample(decoder, GREEDY[:7], 1, 100, make_sampler(0), NO_END)
    assert GREEDY[:7] + rows[0] == GREEDY


def test_greedy_tokens_without_the_cache_are_those_of_openais_graph(decoder: Decoder) -> None:
    tokens = GREEDY[:7]
    while len(tokens) < 64:
        padded = np.array([tokens + [0] * (64 - len(tokens))])
        tokens.append(int(np.asarray(decoder.model(padded))[0, len(tokens) - 1].argmax()))
    assert tokens == GREEDY


def test_prompts_of_many_lengths_in_one_batch_go_on_as_alone(decoder: Decoder) -> None:
    prompts = [EXPECTED["tokens"][0, :length].tolist() for length in (1, 5, 23, 40)]
    state = decoder.prefill(prompts, room=6)
    found = [state.logits.argmax(axis=-1)]
    for _ in range(5):
        state = decoder.step(state, found[-1])
        found.append(state.logits.argmax(axis=-1))
    for row, prompt in zip(np.transpose(found).tolist(), prompts, strict=True):
        assert row == sample(decoder, prompt, 1, 6, make_sampler(0), NO_END)[0]


def test_every_logit_with_the_cache_equals_the_full_pass(decoder: Decoder) -> None:
    tokens = EXPECTED["tokens"][1]
    full = np.asarray(decoder.model(tokens[None]))[0]
    state = decoder.prefill([tokens[:3].tolist()], room=61)
    for position in range(3, 64):
        assert np.abs(state.logits[0] - full[position - 1]).max() <= 1e-5 * np.abs(full).max()
        state = decoder.step(state, tokens[position : position + 1])


def test_n_samples_run_the_prompt_once(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    prefill = decoder.prefill
    monkeypatch.setattr(decoder, "prefill", lambda prompts, room: runs.append(len(prompts)) or prefill(prompts, room))
    rows = sample(decoder, GREEDY[:7], 5, 20, make_sampler(1.0), NO_END, seed=1)
    assert runs == [1]
    assert len({tuple(row) for row in rows}) == 5


def test_a_seed_gives_the_same_rows_whatever_their_number(decoder: Decoder) -> None:
    sampler = make_sampler(0.9, top_k=40)
    rows = sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4)
    assert rows == sample(decoder, GREEDY[:7], 3, 20, sampler, NO_END, seed=4)
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


LOGITS = np.log(np.array([[0.05, 0.4, 0.01, 0.3, 0.04, 0.2]], "float32"))


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
    ],
)
def test_draws_follow_the_rule_by_chi_square(sampler: Sampler, expected: list[float]) -> None:
    generators = [np.random.default_rng([11, row]) for row in range(DRAWS)]
    drawn = sampler.choose(np.repeat(LOGITS, DRAWS, axis=0), generators)
    counts = np.bincount(drawn, minlength=6)
    share = np.asarray(expected) / np.sum(expected)
    assert (counts[share == 0] == 0).all()
    kept = share > 0
    chi_square = ((counts - share * DRAWS)[kept] ** 2 / (share * DRAWS)[kept]).sum()
    assert chi_square < 20.6  # at most 5 degrees of freedom, one in a thousand


def test_temperature_zero_and_top_1_are_greedy() -> None:
    assert make_sampler(0) == make_sampler(top_k=1) == Sampler(None)
    assert make_sampler(0).choose(LOGITS, []).tolist() == [1]


def test_top_k_keeps_just_k_of_equal_ones() -> None:
    assert np.isfinite(TopK(3)(np.zeros((2, 10), "float32"))).sum(axis=-1).tolist() == [3, 3]


def test_rules_leave_their_input_alone() -> None:
    for rule in (Temperature(0.5), TopK(2), Nucleus(0.5)):
        before = LOGITS.copy()
        rule(LOGITS)
        assert np.array_equal(before, LOGITS)


def test_softmax_of_huge_logits_is_finite() -> None:
    assert softmax(np.array([[1e30, 0.0]], "float32")).tolist() == [[1.0, 0.0]]


def test_the_decoder_sees_weights_that_change(decoder: Decoder) -> None:
    model = GPT2(decoder.model.config, seed=1)
    own = Decoder(model)
    before = own.prefill([[1, 2, 3]], room=1).logits
    model.tensors()["wte"].assign(np.asarray(model.tensors()["wte"]) * 2)
    assert not np.array_equal(before, own.prefill([[1, 2, 3]], room=1).logits)
