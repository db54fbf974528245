"""A journal of a long job: each result is on disk as soon as it is known, so that a killed job can continue."""

import json
import os
from pathlib import Path
from typing import Any

from gpt_tf2.errors import InputError


class Journal:
    """A file of results by key, one JSON line each. Its first line names the job that they belong to.

    Opening the journal of a killed job reads its results; a line that the kill cut off is dropped. The journal of
    another job is overwritten.

    Args:
        path: the journal's file.
        job: everything that the results depend on.

    Attributes:
        results: key to result, in the order they were put.

    Raises InputError if the file cannot be read or written.

    Example:
        >>> journal = Journal(Path("scores.partial"), job="124M on story.txt")  # doctest: +SKIP
        >>> for key in keys:  # doctest: +SKIP
        ...     if journal.get(key) is None:
        ...         journal.put(key, compute(key))
        >>> journal.remove()  # doctest: +SKIP
    """

    def __init__(self, path: Path, job: str):
        self.path = path
        self.results, size = read_results(path, job)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("r+b" if size else "wb")
            self.file.truncate(size)
            self.file.seek(0, os.SEEK_END)
        except OSError as error:
            raise self._write_error(error) from None
        if not size:
            self._append(job)

    def get(self, key: str) -> Any | None:
        """Return a result, or None if there is none yet."""
        return self.results.get(key)

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
            self.file.write(json.dumps(value).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise self._write_error(error) from None

    def _write_error(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be written ({error.strerror}): free space or choose another folder")


def read_results(path: Path, job: str) -> tuple[dict[str, Any], int]:
    """The results in the journal of a job, and the size in bytes of its whole lines: none and 0 of another job's.

    Raises InputError if the file is there but cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): fix its permissions, or delete it") from None
    if lines[:1] != [json.dumps(job).encode() + b"\n"]:
        return {}, 0
    whole = [line for line in lines if line.endswith(b"\n")]
    results: dict[str, Any] = {}
    for line in whole[1:]:
        results.update(json.loads(line))
    return results, sum(map(len, whole))
