"""Tensors as files hold them, under the file's own names: what every format of Hugging Face's starts from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROWS = 4096  # of a matrix, compared at a time


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, which stays there until it is read.

    file: for messages.
    dtype: as the file names it.
    is_float: whether it holds floating-point numbers that float32 can hold.
    read_rows: returns some of its rows, as float32. Raises InputError if the file is damaged.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    is_float: bool
    read_rows: Callable[[slice], np.ndarray]

    def read(self) -> np.ndarray:
        """The whole tensor as float32. Raises InputError if the file is damaged."""
        return self.read_rows(slice(None))

    def equals(self, other: "StoredTensor") -> bool:
        """Whether two matrices are equal, compared some rows at a time."""
        if self.shape != other.shape:
            return False
        ranges = [slice(start, min(start + ROWS, self.shape[0])) for start in range(0, self.shape[0], ROWS)]
        return all(np.array_equal(self.read_rows(rows), other.read_rows(rows)) for rows in ranges)
