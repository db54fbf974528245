"""The tensors of a `.safetensors` file."""

import functools
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
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > MOST_HEADER:
            raise InputError(f"{problem} (a header of {size:,} bytes): {FIX}")
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            stored = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    return {
        key: StoredTensor(path, shape, dtype, dtype in FLOATS, functools.partial(read_rows, path, key))
        for key, (shape, dtype) in stored.items()
    }


def read_rows(path: Path, key: str, rows: slice) -> np.ndarray:
    """Some rows of a tensor as float32."""
    # Opened for each tensor: an open file keeps every page that was read mapped into memory.
    problem = f"{path}: tensor {key} cannot be read"
    with explain_damage(problem, FIX), safe_open(path, framework="np") as file, np.errstate(over="ignore"):
        values = file.get_tensor(key) if rows == slice(None) else file.get_slice(key)[rows]
        return values.astype("float32", copy=False)
