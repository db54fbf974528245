"""Low-rank adapters, trained beside frozen weights (LoRA, Hu et al. 2021)."""

import functools
import zlib
from collections.abc import Mapping

import numpy as np

from gpt_tf2.checkpoints.adapters import Adapters
from gpt_tf2.model import GPT2


def add_adapters(model: GPT2, shapes: Mapping[str, tuple[int, ...]], seed: int = 0, alpha: float | None = None) -> None:
    """Add to each matrix `w` the product of new factors `lora_a` and `lora_b`, times α / rank.

    `lora_a` is random and `lora_b` zero, so the model computes the same as before until it is trained.

    Args:
        model: is changed in place.
        shapes: see `adapter_shapes`.
        seed: of `lora_a`.
        alpha: the rank by default, so that nothing is scaled.

    Example:
        >>> add_adapters(model, adapter_shapes(model.config, rank=8), alpha=16)
    """
    for name, shape in shapes.items():
        model.add(name, shape, functools.partial(initial_values, name, shape, seed), "float32")
        if alpha is not None and name.endswith("lora_a"):
            add_scale(model, name, alpha / shape[1])


def load_adapters(model: GPT2, adapters: Adapters) -> None:
    """Add the adapters of a file to their base, in place. Raises InputError if the file is damaged."""
    for name, shape in adapters.shapes.items():
        model.add(name, shape, functools.partial(adapters.read, name), "float32")
        if name.endswith("lora_a"):
            add_scale(model, name, adapters.scale(name))


def add_scale(model: GPT2, name: str, scale: float) -> None:
    """Scale the product of a matrix's factors, by the name of its `lora_a`, with a number that is not trained."""
    if scale != 1:
        values = functools.partial(np.array, scale, "float32")
        model.add(f"{name.removesuffix('lora_a')}lora_scale", (), values, "float32")


def initial_values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name.endswith("lora_b"):
        return np.zeros(shape, "float32")
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(shape, "float32") / np.float32(np.sqrt(shape[0]))
