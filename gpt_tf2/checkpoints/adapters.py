"""LoRA adapters in an HDF5 file of their own, which names their base model and opens as base and adapters merged."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.hdf5 import READ_ERRORS, atomic_hdf5, read_config
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError


def write(path: Path, config: GPT2Config, base: Checkpoint, adapters: Mapping[str, Any]) -> None:
    """Writes the adapters of the model in `base`.

    Args:
        adapters: the factors by name, as in `adapter_shapes`.

    Raises InputError if the file cannot be written.
    """
    with atomic_hdf5(path) as file:
        file.attrs["hparams"] = config.to_json()
        file.attrs["base"] = str(base.path)
        file.attrs["base_digest"] = compute_digest(base)
        for name, tensor in adapters.items():
            file[name] = np.asarray(tensor)


def read_base_path(path: Path) -> str | None:
    """The path of the model that an HDF5 file's adapters belong to; None if the file holds no adapters."""
    try:
        with h5py.File(path, "r") as file:
            base = file.attrs.get("base")
            return None if base is None else str(base)
    except READ_ERRORS:
        return None  # opening it as a whole model explains the damage


def open_merged(path: Path, base: Checkpoint) -> Checkpoint:
    """Opens adapters merged into their base: reading a matrix adds the product of its two factors.

    Raises InputError if the adapters are damaged, or if they belong to another base.
    """
    config = read_config(path)
    try:
        with h5py.File(path, "r") as file:
            expected = file.attrs["base_digest"]
            adapted = {f"{block}/{part}/{name}" for block in file for part in file[block] for name in file[block][part]}
    except READ_ERRORS as error:
        raise InputError(f"{path}: damaged adapters ({error}): copy or write the file again") from None
    if compute_digest(base) != expected:
        raise InputError(f"{path}: made for another model than the one now at {base.path}: put the right one there")

    def read(name: str) -> np.ndarray:
        values = base.read(name)
        matrix = name.removesuffix("/w")
        if matrix not in adapted:
            return values
        try:
            with h5py.File(path, "r") as file:
                return values + file[f"{matrix}/lora_a"][()] @ file[f"{matrix}/lora_b"][()]
        except READ_ERRORS as error:
            raise InputError(f"{path}: adapter {matrix} is damaged ({error}): copy or write it again") from None

    return Checkpoint(path, base.shapes, read, config)


def compute_digest(base: Checkpoint) -> str:
    """A digest of a few tensors, which tells one model from another."""
    return hashlib.sha256(b"".join(base.read(name).tobytes() for name in ("wpe", "ln_f/g", "ln_f/b"))).hexdigest()
