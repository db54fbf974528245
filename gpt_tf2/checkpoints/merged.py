"""A network's tensors as a checkpoint holds them: adapters merged into their matrices."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gpt_tf2.config import scale_shapes, tensor_shapes
from gpt_tf2.errors import InputError

if TYPE_CHECKING:
    from gpt_tf2.model import GPT2


class MergedTensors(Mapping[str, np.ndarray]):
    """A network's tensors by OpenAI's names, in float32, each made when it is asked for.

    A matrix with adapters is its sum with their product, as in `linear`.

    Raises InputError if there are adapters on matrices that are stored in less than float32: their sum would keep the
    rounding of matrices that were never trained.

    Example:
        >>> MergedTensors(model)["h0/mlp/c_fc/w"].shape  # doctest: +SKIP
        (24, 96)
    """

    def __init__(self, model: "GPT2"):
        self.tensors, self.names = model.tensors(), list(tensor_shapes(model.config))
        factors = {factor for name in self.names if name.endswith("/w") for factor in name_factors(name)}
        added = self.tensors.keys() - set(self.names)
        if other_names := added - factors - scale_shapes(model.config).keys():
            other = ", ".join(sorted(other_names))
            raise InputError(f"{other}: not part of a checkpoint of GPT-2: save the network with model.save")
        stored = "int8" if model.int8 else self.tensors["wte"].dtype
        if added and stored != "float32":
            fix = "give finetune an `output` and merge that (gpt-tf2 merge), or train with `precision` float32"
            fix += " without `base_precision`" if model.int8 else ""
            raise InputError(f"the network has adapters on matrices that are rounded to {stored}: {fix}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> np.ndarray:
        values = np.asarray(self.tensors[name], "float32")
        a, b, scale = map(self.tensors.get, name_factors(name))
        if a is None or b is None:
            return values
        return values + np.asarray(a) * np.asarray(1 if scale is None else scale, "float32") @ np.asarray(b)


def name_factors(name: str) -> tuple[str, str, str]:
    """The names of a matrix's adapters: its two factors, and the scale of their product, which not all have."""
    layer = name.removesuffix("w")
    return f"{layer}lora_a", f"{layer}lora_b", f"{layer}lora_scale"
