"""Read arrays of token ids from `.npz` files. Their declared sizes are checked before anything is allocated."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.storage.damage import check_expansion, explain_damage

SUFFIX = ".npy"
FIX = "write it again"


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an `.npz`, in its order. Raises InputError if it is none, or damaged."""
    with open_archive(path) as archive:
        return [member.filename.removesuffix(SUFFIX) for member in archive.infolist()]


def read_ids(path: Path, name: str) -> np.ndarray:
    """An array of token ids in an `.npz`, int [N]. Raises InputError if it is damaged, or of another shape or type."""
    with open_archive(path) as archive, archive.open(name + SUFFIX) as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if len(shape) != 1 or dtype.kind not in "iu":
            message = f"array {name} is {dtype} {list(shape)}: give token ids, one-dimensional integers"
            raise InputError(message, "data", path)
        size = math.prod(shape) * dtype.itemsize
        if size != archive.getinfo(name + SUFFIX).file_size - file.tell():
            message = f"array {name} {list(shape)} has another size than it says: {FIX}"
            raise InputError(message, "data", path)
        content = file.read(size + 1)
        if len(content) != size:
            raise InputError(f"array {name} is truncated: {FIX}", "data", path)
        return np.frombuffer(content, dtype)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An open `.npz` that holds nothing but arrays, of a size in keeping with its own."""
    with explain_damage("not an .npz of arrays", FIX, "data", path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if not member.filename.endswith(SUFFIX):
                raise InputError(f"{member.filename} in it is no array: {FIX} with arrays alone", "data", path)
        names = {member.filename for member in members}
        if len(names) < len(members):
            raise InputError(f"two arrays of one name: {FIX}", "data", path)
        check_expansion(path, sum(member.file_size for member in members), f"{FIX} with numpy.savez, uncompressed")
        yield archive
