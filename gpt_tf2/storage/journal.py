"""A journal of a long job: each result is on disk as soon as it is known, so that a killed job can continue."""

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import write_error

LONGEST_JOB = 1 << 20  # bytes


class Journal:
    """A file of results by key, one JSON line each with its checksum. Its first line names the job that they belong to.

    Opening the journal of a killed job reads its results up to the first line that is cut off or damaged; that line
    and what follows it are dropped. The journal of another job is overwritten.

    Args:
        path: the journal's file.
        job: everything that the results depend on.

    Attributes:
        results: key to result, in the order they were put.
        damage: a line that says what was dropped, to show; empty if all lines were whole.

    Raises InputError if the file cannot be read or written.

    Example:
        >>> journal = Journal(Path("scores.partial"), job="124M on story.txt")  # doctest: +SKIP
        >>> for key in keys:  # doctest: +SKIP
        ...     if key not in journal.results:
        ...         journal.put(key, compute(key))
        >>> journal.remove()  # doctest: +SKIP
    """

    def __init__(self, path: Path, job: str):
        self.path = path
        self.results, size, self.damage = read_results(path, job)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("r+b" if size else "wb")
            self.file.truncate(size)
            self.file.seek(0, os.SEEK_END)
        except OSError as error:
            raise write_error(path, error) from None
        if not size:
            self._append(job)

    def put(self, key: str, result: Any) -> None:
        """Add a result, a JSON value. It is on disk when this returns. Raises InputError if it cannot be written."""
        self._append({key: result})
        self.results[key] = result

    def remove(self) -> None:
        """Delete the file: the job is done."""
        self.file.close()
        self.path.unlink(missing_ok=True)

    def _append(self, value: Any) -> None:
        try:
            self.file.write(format_line(value))
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from None


def read_results(path: Path, job: str) -> tuple[dict[str, Any], int, str]:
    """Return the results in the journal of a job, the bytes of its whole lines, and a line to show on what is damaged.

    Of another job's journal there are no results and 0 bytes. What a kill has cut off is no damage.

    Raises InputError if the file is there but cannot be read.
    """
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): fix its permissions, or delete it") from None
    first, *lines = io.BytesIO(content).readlines() or [b""]  # splitlines would end a line at a damaged byte, too
    header = parse_line(first)
    if header != job:
        damaged = header is None and first.endswith(b"\n")
        return {}, 0, f"{path}: damaged: starting again" if damaged else ""
    results: dict[str, Any] = {}
    size = len(first)
    for line in lines:
        result = parse_line(line)
        if not isinstance(result, dict):
            break
        results.update(result)
        size += len(line)
    damaged = b"\n" in content[size:]  # a kill leaves a line without its end
    return results, size, f"{path}: damaged after {len(results):,} results: the rest is made again" if damaged else ""


def read_job(path: Path) -> str | None:
    """Return the job that a journal belongs to; None if there is no journal or its first line is damaged."""
    try:
        with path.open("rb") as file:
            job = parse_line(file.readline(LONGEST_JOB))
    except OSError:
        return None
    return job if isinstance(job, str) else None


def format_line(value: Any) -> bytes:
    """Return a JSON value as a line that ends with the CRC-32 of what precedes it."""
    text = json.dumps(value).encode()
    return text + b" %08x\n" % zlib.crc32(text)


def parse_line(line: bytes) -> Any | None:
    """Return the value of a line; None if it is cut off or damaged."""
    try:
        value = json.loads(line[: -len(" 01234567\n")])
        return value if format_line(value) == line else None
    except (ValueError, RecursionError):
        return None
