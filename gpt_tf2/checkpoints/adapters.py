"""LoRA adapters, which name their base model and open as base and adapters merged; and their HDF5 file."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint, hash_arrays
from gpt_tf2.checkpoints.hdf5 import atomic_hdf5
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.hdf5 import open_hdf5
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


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters on disk, in any format. The factors stay there until they are read.

    path: their file.
    bases: where to look for their base model; empty if they do not say.
    notes: the texts of `describe_base`; empty in files that other programs wrote.
    shapes: the factors' names and shapes, as in `adapter_shapes`.
    read: returns the factor with a name as float32.
    scale: returns what multiplies the product of a matrix's factors, by the name of its `lora_a`.
    fix: what errors advise.
    """

    path: Path
    bases: tuple[str, ...]
    notes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    scale: Callable[[str], float]
    fix: str

    @property
    def config(self) -> GPT2Config | None:
        """The hyper-parameters of the model; None if they are only with the base."""
        if "hparams" not in self.notes:
            return None
        hparams = parse_json(self.notes["hparams"], f"{self.path}: hparams", self.fix)
        return GPT2Config.from_dict(hparams, str(self.path))

    @property
    def knows_base(self) -> bool:
        """Whether the adapters can tell their base from other models."""
        return "base_digests" in self.notes or "base_digest" in self.notes


def describe_base(path: Path, config: GPT2Config, base: Base) -> dict[str, str]:
    """What adapters at `path` keep of their model, as texts by name: where it is, and what tells it from others."""
    return {
        "hparams": config.to_json(),
        "base": str(base.path),
        "base_from_here": os.path.relpath(base.path, path.parent),
        "base_digests": json.dumps(dict(base.digests)),
        "vocabulary_digest": base.vocabulary,
    }


def write(path: Path, config: GPT2Config, base: Base, adapters: Mapping[str, Any], alpha: float | None = None) -> None:
    """Writes adapters with what tells their base from other models.

    Args:
        adapters: the factors by name, as in `adapter_shapes`.
        alpha: of Hu et al. 2021, section 4.1; the rank by default.

    Raises InputError if the file cannot be written.
    """
    with atomic_hdf5(path) as file:
        file.attrs.update(describe_base(path, config, base))
        if alpha is not None:
            file.attrs["lora_alpha"] = json.dumps(alpha)
        for name, tensor in adapters.items():
            file[name] = np.asarray(tensor)


def open_adapters(path: Path) -> Adapters | None:
    """Opens an HDF5 file of adapters; None if it holds a model. Raises InputError if the file is damaged."""
    file = open_hdf5(path)
    if "base" not in file.attributes:
        return None
    file.attribute("hparams")  # raises if it is missing
    if "base_digests" not in file.attributes:
        file.attribute("base_digest")
    shapes = {name: stored.shape for name, stored in file.datasets.items()}
    # First as seen from the adapters, so that both can move together, and then where training read it.
    bases = *find_beside(path, file.attributes), file.attributes["base"]

    def scale(name: str) -> float:
        if "lora_alpha" not in file.attributes:  # an earlier version wrote the file
            return 1.0
        alpha = parse_json(file.attributes["lora_alpha"], f"{path}: lora_alpha", file.fix)
        return check_alpha(alpha, f"{path}: lora_alpha", file.fix) / shapes[name][1]

    return Adapters(path, bases, file.attributes, shapes, file.read_float32, scale, file.fix)


def check_alpha(alpha: object, where: str, fix: str) -> float:
    """A number that a file gives as α. Raises InputError if it is none."""
    if isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and abs(alpha) < 1e9:
        return float(alpha)
    raise InputError(f"{where} is {alpha!r:.60}, not a number: {fix}")


def find_beside(path: Path, notes: Mapping[str, str]) -> list[str]:
    """Where the base lies as seen from adapters at `path`, if they say so."""
    return [os.path.normpath(path.parent / notes[name]) for name in ("base_from_here",) if name in notes]


def open_merged(adapters: Adapters, base: Checkpoint) -> Checkpoint:
    """Opens adapters merged into their base: reading a matrix adds the scaled product of its two factors.

    Each tensor of the base is compared with the one that the adapters were trained on when it is read, if the adapters
    know it.

    Raises InputError if the adapters are damaged, or if they belong to another base.
    """
    config = adapters.config or base.config
    if adapters.config:
        base.check(adapters.config)
    adapted = list_adapted(adapters, base)
    expected = parse_digests(adapters, base)
    message = f"{adapters.path}: made for another model than the one now at {base.path}: put the right one there"
    other = InputError(f"{message}, or give it as `base`")
    if (
        not expected
        and "base_digest" in adapters.notes
        and compute_former_digest(base) != adapters.notes["base_digest"]
    ):
        raise other

    def read_base(name: str) -> tuple[np.ndarray, str]:
        values, digest = base.read_with_digest(name)
        if expected and digest != expected[name]:
            raise other
        return values, digest

    def read_hashed(name: str) -> tuple[np.ndarray, str]:
        values, digest = read_base(name)
        if name not in adapted:
            return values, digest
        a, b = (adapters.read(f"{name.removesuffix('/w')}/{factor}") for factor in ("lora_a", "lora_b"))
        scale = adapted[name]
        with np.errstate(over="ignore", invalid="ignore"):  # whatever the file holds: no warnings
            # The digest is of the factors, because their product may differ in the last bit on another processor.
            begin = digest if scale == 1 else f"{digest} {scale}"
            return values + (a * np.float32(scale)) @ b, hash_arrays(a, b, begin=begin)

    for name in SMALL if expected else ():
        read_base(name)
    return Checkpoint(adapters.path, base.shapes, lambda name: read_hashed(name)[0], config, read_hashed)


def parse_digests(adapters: Adapters, base: Checkpoint) -> dict[str, str] | None:
    """The digests of the tensors of the base; None in files of earlier versions and of other programs.

    Raises InputError if they are damaged.
    """
    if "base_digests" not in adapters.notes:
        return None
    digests = parse_json(adapters.notes["base_digests"], f"{adapters.path}: base_digests", adapters.fix)
    if not isinstance(digests, dict) or not digests.keys() >= base.shapes.keys():
        raise InputError(f"{adapters.path}: base_digests is damaged: {adapters.fix}")
    return digests


def list_adapted(adapters: Adapters, base: Checkpoint) -> dict[str, float]:
    """The matrices that have adapters, each with the scale of their product.

    Raises InputError if a factor is missing or does not fit its matrix.
    """
    matrices = sorted({f"{name.rpartition('/')[0]}/w" for name in adapters.shapes})
    expected: dict[str, tuple[int, ...]] = {}
    for name in matrices:
        matrix = name.removesuffix("/w")
        shape, factor = base.shapes.get(name, ()), adapters.shapes.get(f"{matrix}/lora_a", ())
        if len(shape) == 2 and len(factor) == 2 and factor[1]:
            rank = factor[1]
            expected |= {f"{matrix}/lora_a": (shape[0], rank), f"{matrix}/lora_b": (rank, shape[1])}
    for name in sorted(expected.keys() | adapters.shapes.keys()):
        if expected.get(name) != adapters.shapes.get(name):
            raise InputError(f"{adapters.path}: adapter {name} does not fit the model at {base.path}: {adapters.fix}")
    return {name: adapters.scale(f"{name.removesuffix('/w')}/lora_a") for name in matrices}


def compute_former_digest(base: Checkpoint) -> str:
    """The digest by which earlier versions tell one base from another."""
    return hashlib.sha256(b"".join(base.read(name).tobytes() for name in SMALL)).hexdigest()
