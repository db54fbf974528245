"""Batches as pure functions of seed and step."""

import numpy as np

from gpt_tf2.data.batches import StreamWindows, split, whole_rows

# Each value tells its stream and its position, so that a window can be recognized.
STREAMS = [np.arange(100, 110), np.arange(200, 203), np.arange(300, 325)]


def test_every_position_is_drawn_equally_often_and_no_window_crosses_streams() -> None:
    windows = StreamWindows(STREAMS, length=4)
    assert windows.window_counts().tolist() == [7, 0, 22]
    starts = []
    for step in range(200):
        batch = windows.batch(seed=3, step=step, batch_size=50).tokens
        assert batch.shape == (50, 4) and batch.dtype == np.int32
        assert (np.diff(batch, axis=1) == 1).all()
        starts += batch[:, 0].tolist()
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [*range(100, 107), *range(300, 322)]
    expected = len(starts) / len(values)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 56.9  # exceeded once in a thousand times with 28 degrees of freedom


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    windows = StreamWindows(STREAMS, length=5)
    first = windows.batch(seed=1, step=7, batch_size=8).tokens
    windows.batch(seed=1, step=8, batch_size=8)
    assert np.array_equal(first, StreamWindows(STREAMS, length=5).batch(seed=1, step=7, batch_size=8).tokens)
    assert not np.array_equal(first, windows.batch(seed=1, step=8, batch_size=8).tokens)
    assert not np.array_equal(first, windows.batch(seed=2, step=7, batch_size=8).tokens)


def test_a_stream_of_exactly_the_length_is_one_window() -> None:
    windows = StreamWindows([np.arange(4)], length=4)
    assert windows.batch(seed=0, step=0, batch_size=2).tokens.tolist() == [[0, 1, 2, 3]] * 2


def test_validation_windows_do_not_overlap_and_are_evenly_spread() -> None:
    windows = StreamWindows([np.arange(103), np.arange(500, 520)], length=10)
    everything = np.concatenate([batch.tokens for batch in windows.windows(batch_size=5, most=50)])
    assert everything.ravel().tolist() == [*range(100), *range(500, 520)]
    some = np.concatenate([batch.tokens for batch in windows.windows(batch_size=5, most=4)])
    assert some[:, 0].tolist() == [0, 30, 60, 90]


def test_the_end_of_each_stream_is_held_out() -> None:
    training, held_out = split(STREAMS, 0.2)
    assert [part.tolist() for part in training] == [list(range(100, 108)), [200, 201], list(range(300, 320))]
    assert [part.tolist() for part in held_out] == [[108, 109], [202], list(range(320, 325))]
    assert [len(part) for part in split(STREAMS, 0.0)[1]] == [0, 0, 0]


def test_every_token_but_the_first_of_a_sequence_is_a_target() -> None:
    batch = whole_rows(np.array([[5, 6, 7], [8, 9, 4]]))
    assert batch.picks.tolist() == [0, 1, 3, 4]
    assert batch.targets.tolist() == [6, 7, 9, 4]
    assert batch.weights.tolist() == [1] * 4
    assert batch.positions.tolist() == [[0, 1, 2]] * 2
    assert batch.size == 6
