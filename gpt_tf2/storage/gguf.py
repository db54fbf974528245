"""GGUF files as they lie on disk: what they say, and their tensors, read one by one.

Files come from strangers, so nothing is read that a file has no bytes for. The package `gguf` writes such files, but
its reader runs in circles where a count is larger than the file.
"""

import contextlib
import dataclasses
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpt_tf2.errors import InputError

VERSIONS = (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # by their types
STRING, ARRAY = 8, 9
ALIGNMENT = "general.alignment"
MOST_DIMENSIONS = 4
# Of ggml's kinds of numbers those that are read: how they lie in a file, and how many an element of that holds.
Q8_0 = np.dtype([("scale", "<f2"), ("values", "i1", 32)])
KINDS: dict[int, tuple[Any, int]] = {0: (np.dtype("<f4"), 1), 1: (np.dtype("<f2"), 1), 8: (Q8_0, 32)}
FIX = "fetch the file again"


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """A tensor in a file.

    shape: with the length of the rows last.
    kind: of its numbers, as ggml counts them.
    start: its first byte in the file.
    """

    shape: tuple[int, ...]
    kind: int
    start: int


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """What a file says, by ggml's names, and its tensors."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32. Raises InputError if it is of another kind than F32, F16 and Q8_0, or damaged."""
        tensor = self.tensors[name]
        if tensor.kind not in KINDS:
            fix = "give the model's float32, float16 or q8_0 file"
            raise InputError(f"{self.path}: tensor {name} is quantized in another way (kind {tensor.kind}): {fix}")
        dtype, held = KINDS[tensor.kind]
        needed = math.prod(tensor.shape) // held * dtype.itemsize  # bytes
        with open_file(self.path) as (file, size):
            if tensor.shape[-1] % held or tensor.start + needed > size:
                raise InputError(f"{self.path}: tensor {name} is truncated or damaged: {FIX}")
            file.seek(tensor.start)
            stored: Any = np.frombuffer(take(file, needed, size, self.path), dtype)
        if dtype == Q8_0:
            with np.errstate(invalid="ignore"):  # of a damaged file
                return (stored["values"] * stored["scale"].astype("f4")[:, None]).reshape(tensor.shape)
        return stored.astype("f4", copy=False).reshape(tensor.shape)


def open_gguf(path: Path) -> GGUFFile:
    """Opens a file without reading its tensors.

    Raises InputError if it is no GGUF file, or damaged.

    Example:
        >>> open_gguf(Path("124M.gguf")).fields["gpt2.block_count"]  # doctest: +SKIP
        12
    """
    with open_file(path) as (file, size):
        magic, version = file.read(4), int.from_bytes(file.read(4), "little")
        if magic != b"GGUF" or version not in VERSIONS:
            raise InputError(f"{path}: not a GGUF file of version 2 or 3: give one")

        def number(kind: str) -> Any:
            return struct.unpack(f"<{kind}", take(file, struct.calcsize(kind), size, path))[0]

        def text() -> str:
            return take(file, number("Q"), size, path).decode("utf-8", "surrogateescape")

        def value(kind: int) -> Any:
            if kind == STRING:
                return text()
            if kind in NUMBERS:
                return number(NUMBERS[kind])
            raise InputError(f"{path}: damaged (a value of kind {kind}): {FIX}")

        def values() -> list[Any]:
            kind, count = number("I"), number("Q")
            if kind in NUMBERS:
                content = take(file, count * struct.calcsize(NUMBERS[kind]), size, path)
                return [item for (item,) in struct.iter_unpack(f"<{NUMBERS[kind]}", content)]
            return [value(kind) for _ in range(count)]  # each takes bytes, or raises

        tensor_count, field_count = number("Q"), number("Q")
        fields = {}
        for _ in range(field_count):
            key, kind = text(), number("I")
            fields[key] = values() if kind == ARRAY else value(kind)
        infos = {}
        for _ in range(tensor_count):
            name, dimensions = text(), number("I")
            if dimensions > MOST_DIMENSIONS or name in infos:
                raise InputError(f"{path}: damaged (tensor {name[:40]!r}): {FIX}")
            shape = tuple(number("Q") for _ in range(dimensions))[::-1]
            infos[name] = shape or (1,), number("I"), number("Q")
        alignment = fields.get(ALIGNMENT, 32)
        if type(alignment) is not int or alignment < 1:
            raise InputError(f"{path}: damaged ({ALIGNMENT}): {FIX}")
        begin = -(-file.tell() // alignment) * alignment
    return GGUFFile(path, fields, {n: GGUFTensor(s, k, begin + offset) for n, (s, k, offset) in infos.items()})


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size in bytes. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): check the path") from None


def take(file: BinaryIO, count: int, size: int, path: Path) -> bytes:
    """The next bytes of a file. Raises InputError if it has fewer."""
    content = file.read(count) if count <= size - file.tell() else b""
    if len(content) < count:
        raise InputError(f"{path}: truncated or damaged: {FIX}")
    return content
