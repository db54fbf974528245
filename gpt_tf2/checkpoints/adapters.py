"""LoRA adapters in an HDF5 file of their own, which names their base model and opens as base and adapters merged."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.hdf5 import atomic_hdf5, parse_config
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.hdf5 import HDF5File, open_hdf5


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
    """The path of the model that an HDF5 file's adapters belong to; None if the file holds no adapters.

    Raises InputError if the file is damaged.
    """
    return open_hdf5(path).attributes.get("base")


def open_merged(path: Path, base: Checkpoint) -> Checkpoint:
    """Opens adapters merged into their base: reading a matrix adds the product of its two factors.

    Raises InputError if the adapters are damaged, or if they belong to another base.
    """
    file = open_hdf5(path)
    config = parse_config(file)
    base.check(config)
    adapted = list_adapted(file, base)
    if compute_digest(base) != file.attribute("base_digest"):
        raise InputError(f"{path}: made for another model than the one now at {base.path}: put the right one there")

    def read(name: str) -> np.ndarray:
        values = base.read(name)
        if name not in adapted:
            return values
        matrix = name.removesuffix("/w")
        with np.errstate(over="ignore", invalid="ignore"):  # whatever the file holds: no warnings
            return values + file.read_float32(f"{matrix}/lora_a") @ file.read_float32(f"{matrix}/lora_b")

    return Checkpoint(path, base.shapes, read, config)


def list_adapted(file: HDF5File, base: Checkpoint) -> set[str]:
    """The matrices that have adapters. Raises InputError if a factor is missing or does not fit its matrix."""
    matrices = {f"{name.rpartition('/')[0]}/w" for name in file.datasets}
    expected: dict[str, tuple[int, ...]] = {}
    for name in sorted(matrices):
        matrix = name.removesuffix("/w")
        shape, factor = base.shapes.get(name, ()), file.datasets.get(f"{matrix}/lora_a")
        if len(shape) == 2 and factor and len(factor.shape) == 2:
            rank = factor.shape[1]
            expected |= {f"{matrix}/lora_a": (shape[0], rank), f"{matrix}/lora_b": (rank, shape[1])}
    for name in sorted(expected.keys() | file.datasets.keys()):
        if name not in file.datasets or expected.get(name) != file.datasets[name].shape:
            raise InputError(f"{file.path}: adapter {name} does not fit the model at {base.path}: {file.fix}")
    return matrices


def compute_digest(base: Checkpoint) -> str:
    """A digest of a few tensors, which tells one model from another."""
    return hashlib.sha256(b"".join(base.read(name).tobytes() for name in ("wpe", "ln_f/g", "ln_f/b"))).hexdigest()
