"""Work by several devices at once: every item once, and an error in one of them ends it all."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from gpt_tf2.backend.workers import Workers

DEFAULT = None  # stands for a device


def square(numbers: Iterator[int]) -> Iterator[int]:
    for number in numbers:
        yield number**2


@pytest.mark.parametrize("count", [1, 4])
def test_every_item_is_worked_on_once(count: int) -> None:
    workers = Workers((DEFAULT,) * count)
    assert sorted(workers.run([square] * count, range(1000))) == [number**2 for number in range(1000)]
    assert list(workers.run([square] * count, [])) == []


def test_the_processes_shares_are_all_items() -> None:
    items = list(range(11))
    shares = [Workers(processes=3, number=number).share(items) for number in range(3)]
    assert [len(share) for share in shares] == [4, 4, 3] and sorted(itertools.chain(*shares)) == items


def test_devices_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2)

    def meet(numbers: Iterator[int]) -> Iterator[int]:
        for number in numbers:
            meeting.wait(timeout=60)
            yield number

    assert sorted(Workers((DEFAULT, DEFAULT)).run([meet, meet], [1, 2])) == [1, 2]


def test_an_error_on_one_device_ends_the_others() -> None:
    def go_on(numbers: Iterator[int]) -> Iterator[int]:
        while True:  # until it is ended
            yield 0

    def fail(numbers: Iterator[int]) -> Iterator[int]:
        raise MemoryError("no memory left")
        yield

    with pytest.raises(MemoryError, match="no memory left"):
        list(Workers((DEFAULT, DEFAULT)).run([go_on, fail], [1, 2]))
    assert count_threads() == 0


def test_a_caller_that_stops_ends_the_devices() -> None:
    results = Workers((DEFAULT, DEFAULT)).run([square, square], range(10**9))
    assert next(results) in (0, 1)
    results.close()
    assert count_threads() == 0


def count_threads() -> int:
    return sum(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())
