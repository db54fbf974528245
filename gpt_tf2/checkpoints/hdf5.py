"""HDF5: one dataset a tensor under OpenAI's names, the hyper-parameters as JSON in the attribute `hparams`."""

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

# What h5py raises for a file that HDF5 cannot make sense of.
READ_ERRORS = (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError)


def open_checkpoint(path: Path) -> Checkpoint:
    shapes = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            shapes[name] = tuple(item.shape)

    try:
        with h5py.File(path, "r") as file:
            hparams = file.attrs.get("hparams")
            file.visititems(note)
    except READ_ERRORS as error:
        raise InputError(f"{path}: not a whole HDF5 file ({error}): copy or write it again") from None
    if not isinstance(hparams, str):
        raise InputError(f"{path}: no attribute hparams: an HDF5 file of another program; give one that gpt-tf2 wrote")
    try:
        config = GPT2Config.from_dict(json.loads(hparams), str(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: damaged hparams ({error}): copy or write the file again") from None

    def read(name: str) -> np.ndarray:
        try:
            with h5py.File(path, "r") as file:
                return file[name].astype("float32")[()]
        except READ_ERRORS as error:
            raise InputError(f"{path}: tensor {name} is damaged ({error}): copy or write the file again") from None

    return Checkpoint(path, shapes, read, config)


class GuardedFile:
    """A file for HDF5 to write to that keeps a write's error for later: HDF5 itself cannot close a file after one."""

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


@contextlib.contextmanager
def atomic_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to write to, which takes the place of `path` once it is whole; see `atomic_write`."""
    with atomic_write(path) as temporary, temporary.open("w+b", buffering=0) as raw:
        guarded = GuardedFile(raw)
        with h5py.File(guarded, "w") as file:
            yield file
        if guarded.error:
            raise guarded.error


def write(path: Path, config: GPT2Config, tensors: Mapping[str, Any]) -> None:
    """Writes tensor by tensor."""
    with atomic_hdf5(path) as file:
        file.attrs["hparams"] = config.to_json()
        for name, tensor in tensors.items():
            file[name] = np.asarray(tensor)
