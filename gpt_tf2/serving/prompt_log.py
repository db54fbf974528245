"""What was asked and answered, in a file, for those who start the server so."""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpt_tf2.errors import InputError
from gpt_tf2.serving.connection import dump
from gpt_tf2.serving.openai_responses import Answer


class PromptLog:
    """A file that gets a line of JSON for each request. Only its owner can read it.

    Lines are appended, so that it may be that of an earlier server.

    Raises InputError if the file cannot be written.

    Example:
        >>> log = PromptLog(Path("prompts.jsonl"))  # doctest: +SKIP
        >>> with log.record({"prompt": ["The tide"]}, answer):  # doctest: +SKIP
        ...     ...  # fills the answer
    """

    def __init__(self, path: Path):
        self._path, self._fails, self._is_cut = path, False, False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():  # to open a FIFO would wait for its reader
                raise InputError("is no file: choose another path", "log_prompts", path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(self._file, 0o600)
        except OSError as error:
            fix = f"cannot be written ({error.strerror}): choose another path"
            raise InputError(fix, "log_prompts", path) from None

    @contextlib.contextmanager
    def record(self, asked: dict[str, Any], answer: Answer) -> Iterator[None]:
        """Writes the line of a request at the end of the `with` block, which answers it, or as much as it can.

        asked: what was to be completed.
        """
        arrived = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        try:
            yield
        finally:
            self._write({"time": arrived, "model": answer.model, **asked, "choices": answer.list_texts()})

    def _write(self, line: dict[str, Any]) -> None:
        """Appends a line. If it cannot, says so once and goes on: those who ask can do nothing about it."""
        rest = b"\n" * self._is_cut + dump(line).encode() + b"\n"
        try:
            while rest:
                written = os.write(self._file, rest)  # a disk that fills up takes a part
                self._is_cut = not rest[:written].endswith(b"\n")
                rest = rest[written:]
            self._fails = False
        except OSError as error:
            if not self._fails:
                print(f"{self._path}: cannot be written ({error.strerror}): requests are not logged", file=sys.stderr)
            self._fails = True

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)
