"""A journal after kills and damage: what is whole is kept, the rest is made again."""

from pathlib import Path

import pytest

from gpt_tf2.storage.journal import Journal

RESULTS = {"0:0": "red", "1:0": ["a", 0.1], "0:1": "ünï \u2028 line", "1:1": 2.5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The journal of a killed job."""
    journal = Journal(tmp_path / "file.partial", "job")
    for key, result in RESULTS.items():
        journal.put(key, result)
    journal.file.close()
    return tmp_path / "file.partial"


def test_a_journal_continues_where_it_ended(path: Path) -> None:
    journal = Journal(path, "job")
    assert journal.results == RESULTS and not journal.damage
    journal.put("2:0", "new")
    journal.file.close()
    assert Journal(path, "job").results == {**RESULTS, "2:0": "new"}


@pytest.mark.parametrize("job", ["another job", ""])
def test_another_job_starts_over(path: Path, job: str) -> None:
    journal = Journal(path, job)
    assert not journal.results and not journal.damage
    journal.file.close()
    assert not Journal(path, "job").results


def test_a_line_that_a_kill_cut_off_is_dropped(path: Path) -> None:
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for size in range(len(lines[0]), len(whole)):
        path.write_bytes(whole[:size])
        journal = Journal(path, "job")
        assert journal.results == dict(list(RESULTS.items())[: whole[:size].count(b"\n") - 1]) and not journal.damage
        journal.file.close()


@pytest.mark.parametrize("bit", [1, 32])
def test_any_flipped_bit_drops_its_line_and_the_rest(path: Path, bit: int) -> None:
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        journal = Journal(path, "job")
        line = whole[:place].count(b"\n")
        assert journal.results == dict(list(RESULTS.items())[: max(0, line - 1)])
        assert journal.damage or place == len(whole) - 1
        journal.put("2:0", "new")
        journal.file.close()
        assert Journal(path, "job").results == {**journal.results}


@pytest.mark.parametrize("tail", [b'{"0:7": "half\n', bytes(300) + b"\n", b"[" * 100_000 + b"\n", b"\n"])
def test_a_damaged_tail_is_reported_and_dropped(path: Path, tail: bytes) -> None:
    with path.open("ab") as file:
        file.write(tail)
    journal = Journal(path, "job")
    assert journal.results == RESULTS
    assert journal.damage == f"{path}: damaged after 4 results: the rest is made again"
    journal.file.close()
    assert not Journal(path, "job").damage


@pytest.mark.parametrize("beginning", [bytes(10), b"\r", b"9" * 5000])
def test_a_damaged_beginning_is_reported(beginning: bytes, path: Path) -> None:
    path.write_bytes(beginning + path.read_bytes())
    assert Journal(path, "job").damage == f"{path}: damaged: starting again"
    assert not Journal(path, "job").damage
