"""Batches as pure functions of seed and step."""

import numpy as np

from gpt_tf2.data.batches import StreamWindows, split, whole_rows

# Each value tells its stream and place, so that a piece can be recognised.
STREAMS = [np.arange(100, 110), np.arange(200, 203), np.arange(300, 325)]


def test_every_position_is_drawn_alike_and_no_piece_crosses_streams() -> None:
    pieces = StreamWindows(STREAMS, length=4)
    assert pieces.window_counts().tolist() == [7, 0, 22]
    starts = []
    for step in range(200):
        batch = pieces.batch(seed=3, step=step, batch_size=50).tokens
        assert batch.shape == (50, 4) and batch.dtype == np.int32
        assert (np.diff(batch, axis=1) == 1).all()
        starts += batch[:, 0].tolist()
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [*range(100, 107), *range(300, 322)]
    expected = len(starts) / len(values)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 56.9  # 28 degrees of freedom, one in a thousand


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    pieces = StreamWindows(STREAMS, length=5)
    first = pieces.batch(seed=1, step=7, batch_size=8).tokens
    pieces.batch(seed=1, step=8, batch_size=8)
    assert np.array_equal(first, StreamWindows(STREAMS, length=5).batch(seed=1, step=7, batch_size=8).tokens)
    assert not np.array_equal(first, pieces.batch(seed=1, step=8, batch_size=8).tokens)
    assert not np.array_equal(first, pieces.batch(seed=2, step=7, batch_size=8).tokens)


def test_a_stream_of_just_the_length_is_one_piece() -> None:
    assert (
        StreamWindows([np.arange(4)], length=4).batch(seed=0, step=0, batch_size=2).tokens.tolist()
        == [[0, 1, 2, 3]] * 2
    )


def test_validation_windows_do_not_overlap_and_are_spread() -> None:
    pieces = StreamWindows([np.arange(103), np.arange(500, 520)], length=10)
    everything = np.concatenate([batch.tokens for batch in pieces.windows(batch_size=5, most=50)])
    assert everything.ravel().tolist() == [*range(100), *range(500, 520)]
    some = np.concatenate([batch.tokens for batch in pieces.windows(batch_size=5, most=4)])
    assert some[:, 0].tolist() == [0, 30, 60, 90]


def test_the_last_part_of_each_stream_is_kept_for_validation() -> None:
    training, validation = split(STREAMS, 0.2)
    assert [len(part) for part in training] == [8, 2, 20]
    assert [part.tolist() for part in validation] == [[108, 109], [202], list(range(320, 325))]
    assert [len(part) for part in split(STREAMS, 0.0)[1]] == [0, 0, 0]


def test_a_row_is_learned_whole_but_for_its_first_token() -> None:
    batch = whole_rows(np.array([[5, 6, 7], [8, 9, 4]]))
    assert batch.picks.tolist() == [0, 1, 3, 4]
    assert batch.targets.tolist() == [6, 7, 9, 4]
    assert batch.weights.tolist() == [1] * 4
    assert batch.positions.tolist() == [[0, 1, 2]] * 2
    assert batch.size == 6
