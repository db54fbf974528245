"""LoRA's adapters as a file of their own: HDF5 with the path of the base model, which reads as the two merged."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.hdf5 import READ_ERRORS, atomic_hdf5
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError


def write(path: Path, config: GPT2Config, base: Checkpoint, adapters: Mapping[str, Any]) -> None:
    """Writes adapters, named as by `add_adapters`, of the model in an opened checkpoint."""
    with atomic_hdf5(path) as file:
        file.attrs["hparams"] = config.to_json()
        file.attrs["base"] = str(base.path)
        file.attrs["base_digest"] = digest(base)
        for name, tensor in adapters.items():
            file[name] = np.asarray(tensor)


def base_of(path: Path) -> str | None:
    """The path of the model that the adapters in an HDF5 file belong to; None if there are none in it."""
    try:
        with h5py.File(path, "r") as file:
            base = file.attrs.get("base")
            return None if base is None else str(base)
    except READ_ERRORS:
        return None  # the reader of whole models says what is wrong


def merged(path: Path, base: Checkpoint) -> Checkpoint:
    """The base with the adapters of a file added. Raises InputError if they are damaged, or of another base."""
    try:
        with h5py.File(path, "r") as file:
            expected, hparams = file.attrs["base_digest"], json.loads(str(file.attrs["hparams"]))
            names = [f"{block}/{part}/{name}" for block in file for part in file[block] for name in file[block][part]]
    except (*READ_ERRORS, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged adapters ({error}): copy or write the file again") from None
    if digest(base) != expected:
        raise InputError(f"{path}: made for another model than what is now at {base.path}: put that one there")

    def read(name: str) -> np.ndarray:
        values = base.read(name)
        matrix = name.removesuffix("/w")
        if matrix not in names:
            return values
        try:
            with h5py.File(path, "r") as file:
                return values + file[f"{matrix}/lora_a"][()] @ file[f"{matrix}/lora_b"][()]
        except READ_ERRORS as error:
            raise InputError(f"{path}: adapter {matrix} is damaged ({error}): copy or write it again") from None

    return Checkpoint(path, base.shapes, read, GPT2Config.from_dict(hparams, str(path)))


def digest(base: Checkpoint) -> str:
    """Tells a model from another, by a few of its tensors."""
    return hashlib.sha256(b"".join(base.read(name).tobytes() for name in ("wpe", "ln_f/g", "ln_f/b"))).hexdigest()
