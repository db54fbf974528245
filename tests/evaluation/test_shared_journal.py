"""The journals of several processes: what each of them knows, and how another number of processes resumes."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gpt_tf2.backend.workers import Workers
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.shared_journal import SharedJournal
from helpers.workplace import list_names

KEYS = [str(number) for number in range(7)]


class Meeting:
    """Exchanges the values of threads that stand for processes."""

    def __init__(self, count: int):
        self.barrier, self.values = threading.Barrier(count, timeout=60), [None] * count

    def exchange(self, number: int, value: Any) -> list[Any]:
        self.values[number] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values


@dataclasses.dataclass(frozen=True)
class LocalWorkers(Workers):
    meeting: Meeting = dataclasses.field(kw_only=True)

    def exchange(self, value: Any) -> list[Any]:
        return self.meeting.exchange(self.number, value)


def run_processes(count: int, function: Callable[[Workers], Any]) -> list[Any]:
    """What a function returns in each of several processes, for which threads stand."""
    meeting = Meeting(count)
    with ThreadPoolExecutor(count) as threads:
        workers = [LocalWorkers(processes=count, number=number, meeting=meeting) for number in range(count)]
        return list(threads.map(function, workers))


def work(path: Path, most: int) -> Callable[[Workers], tuple[dict, int]]:
    """Adds at most a number of results per process: returns all results known then, and how many were added."""

    def add(workers: Workers) -> tuple[dict, int]:
        journal = SharedJournal(path, "squares", workers)
        share = workers.share([key for key in KEYS if journal.get(key) is None])[:most]
        for key in share:
            journal.put(key, int(key) ** 2)
        journal.gather()
        if len(journal.results) == len(KEYS):
            journal.remove()
        return journal.results, len(share)

    return add


def test_all_processes_know_all_results_when_they_are_gathered(tmp_path: Path) -> None:
    known = run_processes(3, work(tmp_path / "j", 7))
    expected = {key: int(key) ** 2 for key in KEYS}
    assert known == [(expected, 3), (expected, 2), (expected, 2)]
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("later", [1, 2, 4])
def test_another_number_of_processes_resumes(later: int, tmp_path: Path) -> None:
    run_processes(3, work(tmp_path / "j", 1))
    assert list_names(tmp_path) == ["j", "j.1", "j.2"]
    (tmp_path / "j.old").write_text("a file of the user")
    known = run_processes(later, work(tmp_path / "j", 7))
    assert sum(count for _, count in known) == len(KEYS) - 3
    assert all(results == {key: int(key) ** 2 for key in KEYS} for results, _ in known)
    assert list_names(tmp_path) == ["j.old"]


def test_processes_with_different_jobs_are_refused(tmp_path: Path) -> None:
    def begin(workers: Workers) -> str:
        with pytest.raises(InputError) as caught:
            SharedJournal(tmp_path / "j", f"seed {workers.number}", workers)
        return str(caught.value)

    assert set(run_processes(2, begin)) == {
        "the processes of this run have different settings, models or data: give all the same"
    }
    assert list_names(tmp_path) == []


def test_results_of_another_job_are_not_taken(tmp_path: Path) -> None:
    run_processes(3, work(tmp_path / "j", 1))
    (journal,) = run_processes(1, lambda workers: SharedJournal(tmp_path / "j", "cubes", workers))
    assert journal.results == {}
