"""HDF5: one dataset a tensor under OpenAI's names, the hyper-parameters as JSON in the attribute `hparams`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.files import atomic_write


def open_checkpoint(path: Path) -> Checkpoint:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a whole HDF5 file ({error}): copy or write it again") from None
    if "hparams" not in file.attrs:
        raise InputError(f"{path}: no attribute hparams: an HDF5 file of another program; give one that gpt-tf2 wrote")
    config = GPT2Config.from_dict(json.loads(str(file.attrs["hparams"])), str(path))
    shapes = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            shapes[name] = tuple(item.shape)

    file.visititems(note)

    def read(name: str) -> np.ndarray:
        try:
            return file[name].astype("float32")[()]
        except (OSError, TypeError) as error:
            raise InputError(f"{path}: tensor {name} is damaged ({error}): copy or write the file again") from None

    return Checkpoint(path, shapes, read, config)


def write(path: Path, config: GPT2Config, tensors: Mapping[str, Any]) -> None:
    """Writes tensor by tensor."""
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["hparams"] = config.to_json()
        for name, tensor in tensors.items():
            file[name] = np.asarray(tensor)
