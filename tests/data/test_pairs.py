"""Pairs of completions: both of a pair share a batch, in two sequences, and each pair comes as often."""

from collections import Counter

import numpy as np
import pytest

from gpt_tf2.data.batches import PairBatch, parts
from gpt_tf2.data.pairs import PackedPairs, measure_pairs
from helpers.preferences import Pair, draw_pairs, to_tokens

N_VOCAB, LENGTH, BETA = 300, 24, 0.25
END = N_VOCAB - 1
PAIRS = draw_pairs(40, N_VOCAB)


def pack(pairs: list[Pair] = PAIRS, **options: object) -> PackedPairs:
    return PackedPairs(to_tokens(pairs), np.arange(len(pairs)), LENGTH, END, BETA, **options)


def read_pairs(batch: PairBatch) -> list[Pair]:
    """The pairs of a batch, as a loss would see them: the prompt is what is not learned of a segment."""
    found, width = [], batch.tokens.shape[1]
    learned = np.zeros(batch.tokens.size, bool)
    learned[batch.picks[batch.weights > 0] + 1] = True
    learned = learned.reshape(-1, width)
    for row in range(0, len(batch.tokens), 2):
        for number in range(1, batch.segments[row].max() + 1):
            prompts, completions = [], []
            for other in (row, row + 1):
                own = batch.segments[other] == number
                ids, is_learned = batch.tokens[other][own].tolist(), learned[other][own]
                assert ids[-1] == END and np.array_equal(batch.positions[other][own], np.arange(len(ids)))
                assert is_learned.tolist() == sorted(is_learned)  # the completion's tokens, and the end of text
                prompts.append(ids[: (~is_learned).sum()])
                completions.append(ids[(~is_learned).sum() : -1])
            assert prompts[0] == prompts[1]
            found.append((prompts[0], *completions))
    return found


def count(pairs: list[Pair]) -> Counter:
    return Counter(map(repr, pairs))


@pytest.mark.parametrize("multiple", [1, 6])
def test_both_completions_of_a_pair_are_in_one_batch_and_every_pair_comes_once(multiple: int) -> None:
    data = pack(multiple=multiple)
    seen: list[Pair] = []
    for _, _, batch in data.list_all(batch_size=2):
        assert batch.tokens.shape[1] <= LENGTH
        seen += read_pairs(batch)
    assert count(seen) == count(PAIRS)
    trained: list[Pair] = []
    for step in range(len(data._pack_pool(0, 0, 3))):
        batch = data.batch(0, step, 3)
        assert len(batch.tokens) == 6 and batch.total == len(read_pairs(batch))
        trained += read_pairs(batch)
    counts = count(trained)
    assert counts.keys() == count(PAIRS).keys() and max(counts.values()) - min(counts.values()) <= 1


def test_validation_takes_pairs_spread_over_the_data() -> None:
    seen = [pair for batch in pack().windows(batch_size=2, most=10) for pair in read_pairs(batch)]
    assert count(seen) == count(PAIRS[::4])


@pytest.mark.parametrize("split", [2, 3, 5])
def test_micro_batches_keep_pairs_together(split: int) -> None:
    data = pack(reference=np.arange(4 * len(PAIRS), dtype="float32"))
    batch = data.batch(0, 0, 5)
    micro = parts(batch, split)
    assert 1 < len(micro) <= split
    assert [pair for part in micro for pair in read_pairs(part)] == read_pairs(batch)
    assert sum(part.total for part in micro) == batch.total
    for name in ("targets", "weights", "reference"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in micro]), getattr(batch, name))


def test_each_completion_has_its_reference_at_its_first_learned_token() -> None:
    batch = pack(reference=np.arange(4 * len(PAIRS), dtype="float32"), multiple=6).batch(0, 0, 4)
    width, expected = batch.tokens.shape[1], []
    in_order = [(row, number) for row in range(8) for number in range(1, batch.segments[row].max() + 1)]
    for row, number in in_order:
        own = (batch.picks // width == row) & (batch.segments.ravel()[batch.picks] == number) & (batch.weights > 0)
        assert np.count_nonzero(batch.reference[own]) == 1 and batch.reference[own][0] > 0
        span = int(batch.reference[own][0])
        assert span % 4 == 2 + row % 2
        assert PAIRS[span // 4][1 + row % 2] == batch.targets[own][:-1].tolist()
        expected.append(span)
    assert sorted(batch.reference[batch.reference > 0]) == sorted(expected)
    assert set(batch.weights.tolist()) <= {BETA, 0.0}


def test_a_pair_takes_as_much_as_its_longer_completion() -> None:
    assert measure_pairs(to_tokens([([1, 2], [3], [4, 5, 6]), ([1], [2, 3], [4])])).tolist() == [6, 4]
