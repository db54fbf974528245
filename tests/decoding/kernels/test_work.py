"""Threads that share a phase's items."""

import threading

import numba
import numpy as np
import pytest

from gpt_tf2.decoding.kernels.vectors import HAS_TILES
from gpt_tf2.decoding.kernels.work import FIRST_PAUSE, Crew, count_numbers, end_phase, take_item

pytestmark = pytest.mark.skipif(not HAS_TILES, reason="the kernels run on other processors")
PHASES, ITEMS, THREADS = 50, 13, 3


@numba.njit(nogil=True)
def run(counters: np.ndarray, values: np.ndarray, thread: int) -> None:
    """In each phase, each item adds one to what all items of the phase before have made."""
    for phase in range(PHASES):
        done, item = 0, take_item(counters, phase, thread, THREADS, ITEMS)
        while item >= 0:
            values[phase + 1, item] += 1 + values[phase].min()
            done += 1
            item = take_item(counters, phase, thread, THREADS, ITEMS)
        end_phase(counters, phase, thread, THREADS, done, ITEMS)


@pytest.mark.parametrize("begun", [1, 2, THREADS])
def test_each_item_is_done_once_after_the_phase_before_whichever_threads_begin(begun: int) -> None:
    counters, values = np.zeros(count_numbers(PHASES, THREADS), "int64"), np.zeros((PHASES + 1, ITEMS), "int64")
    threads = [threading.Thread(target=run, args=(counters, values, thread), daemon=True) for thread in range(begun)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    np.testing.assert_array_equal(values, np.arange(PHASES + 1)[:, None] * np.ones(ITEMS))


def test_a_crew_that_waits_for_itself_is_smaller_for_a_while() -> None:
    crew, threads = Crew(8), []
    for waited in [0.9, 0.9, *[0.0] * 10]:
        threads.append(crew.threads)
        crew.report(waited)
    assert threads == [8, 6, *[4] * 8, 8, 8]
    crew.report(0.9)  # a disturbance after a good run
    crew.report(0.0, FIRST_PAUSE - 1)
    assert crew.threads == 6
    crew.report(0.0, 16)
    assert crew.threads == 8
    crew = Crew(1)
    crew.report(0.9)
    assert crew.threads == 1


def test_a_crew_beside_a_program_that_stays_is_seldom_tried_whole() -> None:
    crew, trials = Crew(2), []
    for run in range(300):
        if crew.threads == 2:
            trials.append(run)
        crew.report(0.9 if crew.threads == 2 else 0.0)
    assert np.diff(trials).tolist() == [5, 9, 17, 33, 65, 65, 65]
