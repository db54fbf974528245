"""Low-rank adapters (Hu et al. 2021): what is trained beside frozen weights."""

import functools
import zlib
from collections.abc import Mapping

import numpy as np

from gpt_tf2.model import GPT2


def add_adapters(model: GPT2, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> None:
    """Adds to matrices `w` the product of `lora_a` and `lora_b`; no factor stands before it (α is the rank).

    `lora_a` is random and `lora_b` zero, so at first the model computes what it did.

    Args:
        shapes: of `adapter_shapes`.
    """
    for name, shape in shapes.items():
        model.add(name, shape, functools.partial(initial, name, shape, seed), "float32")


def initial(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name.endswith("lora_b"):
        return np.zeros(shape, "float32")
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return draw.standard_normal(shape, "float32") / np.float32(np.sqrt(shape[0]))
