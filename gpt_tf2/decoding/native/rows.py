"""Reading some rows of a matrix in a file."""

import os
from pathlib import Path
from typing import NoReturn

import numpy as np

from gpt_tf2.errors import InputError


class RowsFile:
    """An .npy file of a float32 matrix, of which a few rows are read at a time.

    Mapped to memory, it would take two megabytes for a row.

    Example:
        >>> np.save("matrix.npy", np.eye(3, dtype="float32"))
        >>> RowsFile(Path("matrix.npy")).read([2, 0], width=4)
        array([[0., 0., 1., 0.],
               [1., 0., 0., 0.]], dtype=float32)
    """

    def __init__(self, path: Path):
        mapped = np.load(path, mmap_mode="r")
        self._start, self._row_bytes = mapped.offset, mapped.itemsize * mapped.shape[1]
        self._file = path.open("rb", buffering=0)

    @property
    def location(self) -> np.ndarray:
        """Int64 [3]: the file's descriptor, where its rows start, and a row's bytes."""
        return np.array([self._file.fileno(), self._start, self._row_bytes])

    def read(self, numbers: list[int], width: int) -> np.ndarray:
        """The rows of these numbers, filled up with zeros: float32 [N, width].

        Raises InputError if the file is too short.
        """
        rows = np.zeros((len(numbers), width), "float32")
        for row, number in zip(rows, numbers, strict=True):
            part, start = row.view("uint8").data[: self._row_bytes], self._start + number * self._row_bytes
            if os.preadv(self._file.fileno(), [part], start) != self._row_bytes:
                self.report_missing(number)
        return rows

    def report_missing(self, number: int) -> NoReturn:
        """Raises InputError about a row that the file lacks."""
        raise InputError(f"{self._file.name}: ends before row {number}: remove its folder")
