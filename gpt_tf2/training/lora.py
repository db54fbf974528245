"""Low-rank adapters, trained beside frozen weights (LoRA, Hu et al. 2021)."""

import functools
import zlib
from collections.abc import Mapping

import numpy as np

from gpt_tf2.model import GPT2


def add_adapters(model: GPT2, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> None:
    """Add to each matrix `w` the product of new factors `lora_a` and `lora_b`, unscaled: α is the rank.

    `lora_a` is random and `lora_b` zero, so the model computes the same as before until it is trained.

    Args:
        model: is changed in place.
        shapes: see `adapter_shapes`.
        seed: of `lora_a`.

    Example:
        >>> add_adapters(model, adapter_shapes(model.config, rank=8))
    """
    for name, shape in shapes.items():
        model.add(name, shape, functools.partial(initial_values, name, shape, seed), "float32")


def initial_values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name.endswith("lora_b"):
        return np.zeros(shape, "float32")
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(shape, "float32") / np.float32(np.sqrt(shape[0]))
