"""LoRA adapters in an HDF5 file of their own, which names their base model and opens as base and adapters merged."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint, hash_arrays
from gpt_tf2.checkpoints.hdf5 import atomic_hdf5, parse_config
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.hdf5 import HDF5File, open_hdf5
from gpt_tf2.storage.json_text import parse_json

SMALL = ("wpe", "ln_f/g", "ln_f/b")  # compared when adapters are opened, so that most mistakes show at once


@dataclasses.dataclass(frozen=True)
class Base:
    """The model that adapters belong to, as it was when training read it.

    path: its file, or the prefix of a TF1 checkpoint.
    digests: of each of its tensors, by name; see `Checkpoint.read_with_digest`.
    vocabulary: see `Tokenizer.digest`.
    """

    path: Path
    digests: Mapping[str, str]
    vocabulary: str


def write(path: Path, config: GPT2Config, base: Base, adapters: Mapping[str, Any]) -> None:
    """Writes adapters with what tells their base from other models.

    Args:
        adapters: the factors by name, as in `adapter_shapes`.

    Raises InputError if the file cannot be written.
    """
    with atomic_hdf5(path) as file:
        file.attrs["hparams"] = config.to_json()
        file.attrs["base"] = str(base.path)
        file.attrs["base_from_here"] = os.path.relpath(base.path, path.parent)
        file.attrs["base_digests"] = json.dumps(dict(base.digests))
        file.attrs["vocabulary_digest"] = base.vocabulary
        for name, tensor in adapters.items():
            file[name] = np.asarray(tensor)


def read_base_paths(path: Path) -> tuple[str, ...]:
    """Where to look for the model that an HDF5 file's adapters belong to; nowhere if the file holds no adapters.

    First where it lies as seen from the adapters, so that both can move together, and then where training read it.

    Raises InputError if the file is damaged.
    """
    attributes = open_hdf5(path).attributes
    if "base" not in attributes:
        return ()
    beside = [os.path.normpath(path.parent / attributes[name]) for name in ("base_from_here",) if name in attributes]
    return (*beside, attributes["base"])


def read_vocabulary_digest(path: Path) -> str | None:
    """The digest of the vocabulary that an HDF5 file's adapters were trained with; None if an earlier version wrote it.

    Raises InputError if the file is damaged.
    """
    return open_hdf5(path).attributes.get("vocabulary_digest")


def open_merged(path: Path, base: Checkpoint) -> Checkpoint:
    """Opens adapters merged into their base: reading a matrix adds the product of its two factors.

    Each tensor of the base is compared with the one that the adapters were trained on when it is read.

    Raises InputError if the adapters are damaged, or if they belong to another base.
    """
    file = open_hdf5(path)
    config = parse_config(file)
    base.check(config)
    adapted = list_adapted(file, base)
    expected = parse_digests(file, base)
    other = InputError(f"{path}: made for another model than the one now at {base.path}: put the right one there")
    if expected is None and compute_former_digest(base) != file.attribute("base_digest"):
        raise other

    def read_base(name: str) -> tuple[np.ndarray, str]:
        values, digest = base.read_with_digest(name)
        if expected is not None and digest != expected[name]:
            raise other
        return values, digest

    def read_hashed(name: str) -> tuple[np.ndarray, str]:
        values, digest = read_base(name)
        if name not in adapted:
            return values, digest
        a, b = (file.read_float32(f"{name.removesuffix('/w')}/{factor}") for factor in ("lora_a", "lora_b"))
        with np.errstate(over="ignore", invalid="ignore"):  # whatever the file holds: no warnings
            # The digest is of the factors, because their product may differ in the last bit on another processor.
            return values + a @ b, hash_arrays(a, b, begin=digest)

    for name in SMALL:
        read_base(name)
    return Checkpoint(path, base.shapes, lambda name: read_hashed(name)[0], config, read_hashed)


def parse_digests(file: HDF5File, base: Checkpoint) -> dict[str, str] | None:
    """The digests of the tensors of the base; None in a file of an earlier version.

    Raises InputError if they are damaged.
    """
    if "base_digests" not in file.attributes:
        return None
    digests = parse_json(file.attributes["base_digests"], f"{file.path}: base_digests", file.fix)
    if not isinstance(digests, dict) or not digests.keys() >= base.shapes.keys():
        raise InputError(f"{file.path}: base_digests is damaged: {file.fix}")
    return digests


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


def compute_former_digest(base: Checkpoint) -> str:
    """The digest by which earlier versions tell one base from another."""
    return hashlib.sha256(b"".join(base.read(name).tobytes() for name in SMALL)).hexdigest()
