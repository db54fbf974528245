"""HDF5: one dataset per tensor under OpenAI's name, the hyper-parameters as JSON in the attribute `hparams`."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write
from gpt_tf2.storage.sealed import seal

# What h5py raises for a damaged file.
READ_ERRORS = (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError)


def read_config(path: Path) -> GPT2Config:
    """The hyper-parameters in a file of a model or of adapters.

    Raises InputError if the file is truncated or damaged, or if another program wrote it.
    """
    with explain_damage(path), h5py.File(path, "r") as file:
        hparams = file.attrs.get("hparams")
    if not isinstance(hparams, str):
        raise InputError(f"{path}: no attribute hparams, so another program wrote it: give a file written by gpt-tf2")
    try:
        return GPT2Config.from_dict(json.loads(hparams), str(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: damaged hparams ({error}): copy or write the file again") from None


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a file. Raises InputError if it is truncated or damaged, or if another program wrote it."""
    config = read_config(path)
    shapes = {}

    def add_shape(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            shapes[name] = tuple(item.shape)

    with explain_damage(path), h5py.File(path, "r") as file:
        file.visititems(add_shape)

    def read(name: str) -> np.ndarray:
        try:
            with h5py.File(path, "r") as file:
                return file[name].astype("float32")[()]
        except READ_ERRORS as error:
            raise InputError(f"{path}: tensor {name} is damaged ({error}): copy or write the file again") from None

    return Checkpoint(path, shapes, read, config)


@contextlib.contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turns h5py's errors into an InputError."""
    try:
        yield
    except READ_ERRORS as error:
        raise InputError(f"{path}: not a whole HDF5 file ({error}): copy or write it again") from None


def write(path: Path, config: GPT2Config, tensors: Mapping[str, Any]) -> None:
    """Writes a model's tensors one by one. Raises InputError if the file cannot be written."""
    with atomic_hdf5(path) as file:
        file.attrs["hparams"] = config.to_json()
        for name, tensor in tensors.items():
            file[name] = np.asarray(tensor)


@contextlib.contextmanager
def atomic_hdf5(path: Path, sealed: bool = False) -> Iterator[h5py.File]:
    """Yields an HDF5 file to write to, which replaces `path` once it is complete; see `atomic_write`.

    Args:
        sealed: whether to append a checksum; see `check_seal`.
    """
    with atomic_write(path) as temporary:
        with temporary.open("w+b", buffering=0) as raw:
            guarded = GuardedFile(raw)
            with h5py.File(guarded, "w") as file:
                yield file
        if guarded.error:
            raise guarded.error
        if sealed:
            seal(temporary)


class GuardedFile:
    """A file for HDF5 that remembers the first failed write instead of raising: HDF5 cannot close a file after one."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: memoryview) -> int:
        try:
            if self.error is None:
                self.file.write(data)
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        return 0 if self.error else self.file.truncate(size)
