"""A checkpoint of any format, seen as a lazy mapping from OpenAI's tensor names to arrays."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Its tensors stay on disk until they are read one by one.

    path: its file, or the prefix of a TF1 checkpoint. For messages.
    shapes: each tensor's name and shape, as in `tensor_shapes`. Tensors that are not GPT-2's keep the file's name.
    read: returns the tensor with a name as float32. Raises InputError with file and tensor if it is damaged.
    config: the hyper-parameters that the checkpoint carries; None for TF1.
    read_hashed: for a tensor made from several: reads it with a digest of what it is made from.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    config: GPT2Config | None = None
    read_hashed: Callable[[str], tuple[np.ndarray, str]] | None = None

    def read_with_digest(self, name: str) -> tuple[np.ndarray, str]:
        """Reads a tensor, and hashes the values that were read: a file may be replaced at any time.

        The digest is the same in every format that holds the same float32 values. Raises InputError like `read`.
        """
        if self.read_hashed:
            return self.read_hashed(name)
        values = self.read(name)
        return values, hash_arrays(values)

    def check(self, config: GPT2Config) -> None:
        """Raises InputError unless these are exactly the tensors of a GPT-2 with these hyper-parameters."""
        if self.config not in (None, config):
            raise InputError(f"{self.path}: written with {self.config}, not {config}: leave `json_hparams` out")
        expected = tensor_shapes(config)
        fix = "give the hparams.json of this checkpoint, or the checkpoint of this hparams.json"
        for name, shape in expected.items():
            if name not in self.shapes:
                raise InputError(f"{self.path}: tensor {name} is missing: {fix}")
            if self.shapes[name] != shape:
                shapes = f"has shape {list(self.shapes[name])}, but the hyper-parameters require {list(shape)}"
                raise InputError(f"{self.path}: tensor {name} {shapes}: {fix}")
        for name in self.shapes:
            if name not in expected:
                raise InputError(
                    f"{self.path}: tensor {name} is not part of this GPT-2: save its weights alone, or {fix}"
                )


def hash_arrays(*arrays: np.ndarray, begin: str = "") -> str:
    """The SHA-256 of a text and the values of arrays."""
    digest = hashlib.sha256(begin.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).ravel().view("uint8").data)
    return digest.hexdigest()
