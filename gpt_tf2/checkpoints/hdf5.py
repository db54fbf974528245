"""HDF5: one dataset per tensor under OpenAI's name, the hyper-parameters as JSON in the attribute `hparams`."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.storage.files import atomic_write
from gpt_tf2.storage.hdf5 import HDF5File, open_hdf5
from gpt_tf2.storage.json_text import parse_json
from gpt_tf2.storage.sealed import seal


def read_config(path: Path) -> GPT2Config:
    """The hyper-parameters in a file of a model or of adapters.

    Raises InputError if the file is truncated or damaged, or if another program wrote it.
    """
    return parse_config(open_hdf5(path))


def parse_config(file: HDF5File) -> GPT2Config:
    """The hyper-parameters in an opened file of a model or of adapters."""
    hparams = parse_json(file.attribute("hparams"), f"{file.path}: hparams", file.fix)
    return GPT2Config.from_dict(hparams, str(file.path))


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a file. Raises InputError if it is truncated or damaged, or if another program wrote it."""
    file = open_hdf5(path)
    shapes = {name: stored.shape for name, stored in file.datasets.items()}
    return Checkpoint(path, shapes, file.read_float32, parse_config(file))


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
            with h5py.File(guarded, "w", libver="earliest") as file:  # the layout that `open_hdf5` reads
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
