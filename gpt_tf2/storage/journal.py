"""What has been done of a long piece of work, on disk after every part of it, so that a killed process can go on."""

import json
import os
from pathlib import Path
from typing import Any

from gpt_tf2.errors import InputError


class Journal:
    """Results by key, one a line of a file whose first line says what work they are of.

    Args:
        path: of the file. One of other work is begun anew.
        work: what the results depend on.

    Raises InputError if the file cannot be written.
    """

    def __init__(self, path: Path, work: str):
        self.path = path
        self.results: dict[str, Any] = {}
        begun = json.dumps(work).encode() + b"\n"
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
            whole = [line for line in lines if line.endswith(b"\n")] if lines[:1] == [begun] else []
            for line in whole[1:]:  # the last may have been cut off
                self.results.update(json.loads(line))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("r+b" if whole else "wb")
            self.file.truncate(sum(map(len, whole)))
            self.file.seek(0, os.SEEK_END)
        except OSError as error:
            raise self.unwritable(error) from None
        if not whole:
            self.append(work)

    def get(self, key: str) -> Any | None:
        return self.results.get(key)

    def put(self, key: str, result: Any) -> None:
        """Keeps a JSON value; it is on the disk when this returns."""
        self.append({key: result})
        self.results[key] = result

    def append(self, value: Any) -> None:
        try:
            self.file.write(json.dumps(value).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise self.unwritable(error) from None

    def unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be written ({error.strerror}): free space or choose another folder")

    def remove(self) -> None:
        """The work is done."""
        self.file.close()
        self.path.unlink()
