"""The tensors of a `.safetensors` file."""

import functools
import json
import math
from pathlib import Path

import ml_dtypes  # noqa: F401 - makes bfloat16 known to numpy
import numpy as np
from safetensors import safe_open

from gpt_tf2.checkpoints.stored import StoredTensor
from gpt_tf2.errors import InputError
from gpt_tf2.storage.damage import explain_damage

FLOATS = ("F32", "F16", "BF16", "F64")
MOST_HEADER = 1 << 24  # bytes; that of 1558M has 60 kB
FIX = "copy or download the file again"


def list_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by its names. Raises InputError if it is truncated or damaged."""
    problem = f"{path}: not a whole safetensors file"
    with explain_damage(problem, FIX):
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            header = raw.read(min(size, MOST_HEADER))
        if size > MOST_HEADER:
            raise InputError(f"{problem} (a header of {size:,} bytes): {FIX}")
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            stored = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
        places = json.loads(header)  # which the library has checked
    reads = {key: functools.partial(read_rows, path, key) for key in stored}
    for key, (shape, dtype) in stored.items():
        if dtype == "F32":
            reads[key] = functools.partial(read_float32, path, key, shape, 8 + size + places[key]["data_offsets"][0])
    return {
        key: StoredTensor(path, shape, dtype, dtype in FLOATS, reads[key]) for key, (shape, dtype) in stored.items()
    }


def read_float32(path: Path, key: str, shape: tuple[int, ...], begin: int, rows: slice) -> np.ndarray:
    """Some rows of a float32 tensor, whose values begin at a byte of the file.

    Other threads run meanwhile; the library would keep them waiting.
    """
    if rows != slice(None):
        return read_rows(path, key, rows)
    values = bytearray(4 * math.prod(shape))
    with path.open("rb") as file:
        file.seek(begin)
        if file.readinto(values) < len(values):
            raise InputError(f"{path}: tensor {key} cannot be read (the file ends before): {FIX}")
    return np.frombuffer(values, "<f4").reshape(shape)


def read_rows(path: Path, key: str, rows: slice) -> np.ndarray:
    """Some rows of a tensor as float32."""
    # Opened for each tensor: an open file keeps every page that was read mapped into memory.
    problem = f"{path}: tensor {key} cannot be read"
    with explain_damage(problem, FIX), safe_open(path, framework="np") as file, np.errstate(over="ignore"):
        values = file.get_tensor(key) if rows == slice(None) else file.get_slice(key)[rows]
        return values.astype("float32", copy=False)
