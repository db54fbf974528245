"""Optimizers as pure functions of one tensor; what a step changes is compiled into one pass over its memory.

All take `update(weight, gradient, slots, rate, step)` → the new weight and slots, in float32; the gradient may be of
less precision. `step` counts from 1. `slots(shape)` are the shapes of what is kept for a tensor, at first 0. Weight
decay is decoupled (Loshchilov and Hutter 2019): `rate · decay · weight`, and of matrices alone.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol, TypeVar

from keras import ops

from gpt_tf2.errors import InputError
from gpt_tf2.model import Tensor

Shape = tuple[int, ...]
Slots = tuple[Tensor, ...]
Found = TypeVar("Found", bound=tuple)


class Optimizer(Protocol):
    """What each of them has."""

    def slots(self, shape: Shape) -> list[Shape]:
        """The shapes of what is kept for a tensor."""

    def update(
        self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, Slots]:
        """One step of one tensor."""


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam (Kingma and Ba 2015, algorithm 1), its epsilon beside the corrected root, as in torch."""

    decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def slots(self, shape: Shape) -> list[Shape]:
        return [shape, shape]

    def update(
        self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, Slots]:
        gradient = ops.cast(gradient, "float32")
        mean, square = slots
        mean = mean + (1 - self.beta_1) * (gradient - mean)
        square = square + (1 - self.beta_2) * (ops.square(gradient) - square)
        root = ops.sqrt(square / (1 - self.beta_2**step)) + self.epsilon
        weight = decayed(weight, rate * self.decay)
        return weight - rate / (1 - self.beta_1**step) * mean / root, (mean, square)


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """A row and a column of second moments in place of a matrix (Shazeer and Stern 2018, algorithm 4), as in torch.

    A step is relative to the root mean square of the tensor, at most `1/√step`, and clipped to a root mean square of 1.
    """

    decay: float = 0.0
    least: float = 2.0**-23  # of the root of a second moment
    least_weight: float = 1e-3  # of a tensor's root mean square

    def slots(self, shape: Shape) -> list[Shape]:
        return [shape[:1], shape[1:]] if len(shape) == 2 else [shape]

    def update(
        self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, Slots]:
        share = step**-0.8
        if len(slots) == 2:
            of_rows, of_columns = mean_squares(gradient)
            rows, columns = slots[0] + share * (of_rows - slots[0]), slots[1] + share * (of_columns - slots[1])
            slots = rows, columns
            roots = ops.rsqrt(rows / ops.maximum(ops.mean(rows), self.least))[:, None], ops.rsqrt(columns)[None]
        else:
            slots = (slots[0] + share * (ops.square(ops.cast(gradient, "float32")) - slots[0]),)
            roots = ops.rsqrt(slots[0]), ops.ones_like(slots[0])[:1]

        def direction(gradient: Tensor, by_row: Tensor) -> Tensor:
            return ops.cast(gradient, "float32") * ops.minimum(by_row * roots[1], 1 / self.least)

        norm = rms(direction, gradient, roots[0])
        size = ops.minimum(rate, step**-0.5) * ops.maximum(self.least_weight, rms(lambda w: w, weight))
        moved = size / ops.maximum(1.0, norm) * direction(gradient, roots[0])
        return decayed(weight, rate * self.decay) - moved, slots


@dataclasses.dataclass(frozen=True)
class Lion:
    """The sign of a mean (Chen et al. 2023, algorithm 2). Its rate is a third to a tenth of AdamW's."""

    decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.99

    def slots(self, shape: Shape) -> list[Shape]:
        return [shape]

    def update(
        self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, Slots]:
        gradient, (mean,) = ops.cast(gradient, "float32"), slots
        direction = ops.sign(self.beta_1 * mean + (1 - self.beta_1) * gradient)
        mean = self.beta_2 * mean + (1 - self.beta_2) * gradient
        return decayed(weight, rate * self.decay) - rate * direction, (mean,)


@dataclasses.dataclass(frozen=True)
class Muon:
    """Orthogonalized means of matrices (Jordan et al. 2024), AdamW for vectors and embeddings.

    A step is scaled to AdamW's root mean square (Liu et al. 2025, equation 4), so its rates serve here.
    """

    decay: float = 0.0
    momentum: float = 0.95

    def slots(self, shape: Shape) -> list[Shape]:
        return [shape] if self._is_hidden(shape) else AdamW().slots(shape)

    def update(
        self, weight: Tensor, gradient: Tensor, slots: Slots, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, Slots]:
        if not self._is_hidden(weight.shape):
            return AdamW(self.decay).update(weight, gradient, slots, rate, step)
        gradient = ops.cast(gradient, "float32")
        mean = self.momentum * slots[0] + (1 - self.momentum) * gradient
        direction = orthogonal(self.momentum * mean + (1 - self.momentum) * gradient)
        scale = 0.2 * math.sqrt(max(weight.shape))
        return decayed(weight, rate * self.decay) - rate * scale * direction, (mean,)

    def _is_hidden(self, shape: Shape) -> bool:
        """Of a block, and not an embedding: none of a block's matrices is more than four times as long as wide."""
        return len(shape) == 2 and max(shape) <= 4 * min(shape)


OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor, "lion": Lion, "muon": Muon}
SLICE = 1 << 22  # elements


def find_optimizer(name: str, decay: float) -> Optimizer:
    """The optimizer of a name. Raises InputError if there is none."""
    if name not in OPTIMIZERS:
        raise InputError(f"--optimizer {name}: give one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](decay)


def decayed(weight: Tensor, share: Tensor) -> Tensor:
    return weight - share * weight if len(weight.shape) == 2 else weight


def mean_squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of a matrix's rows, and of its columns."""

    def add(found: tuple[Tensor, Tensor], at: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        squares = ops.square(ops.cast(part, "float32"))
        return ops.slice_update(found[0], (at,), ops.mean(squares, axis=1)), found[1] + ops.sum(squares, axis=0)

    rows, columns = fold(add, (ops.zeros(x.shape[0]), ops.zeros(x.shape[1])), x)
    return rows, columns / x.shape[0]


def rms(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    """The root mean square of a function of arrays, row by row, that is of the first one's shape."""

    def add(total: tuple[Tensor], at: Tensor, *parts: Tensor) -> tuple[Tensor]:
        return (total[0] + ops.sum(ops.square(function(*parts))),)

    return ops.sqrt(fold(add, (ops.zeros(()),), *arrays)[0] / math.prod(arrays[0].shape))


def fold(function: Callable[..., Found], found: Found, *arrays: Tensor) -> Found:
    """`function(found, at, *parts)` over slices of rows, one after the other: XLA would hold all at once."""
    count = arrays[0].shape[0]
    size = max(1, count * SLICE // max(SLICE, math.prod(arrays[0].shape)))

    # As bits: XLA would turn all of a bfloat16 array into float32 before the loop.
    bits = [ops.view(array, "uint16") if ops.dtype(array) == "bfloat16" else array for array in arrays]

    def step(i: Tensor, found: Found) -> Found:
        parts = (ops.slice(a, (i * size,) + (0,) * (len(a.shape) - 1), (size, *a.shape[1:])) for a in bits)
        return function(found, i * size, *(ops.view(p, a.dtype) for p, a in zip(parts, arrays, strict=True)))

    whole = count // size * size
    found = ops.fori_loop(0, count // size, step, found)
    return function(found, whole, *(array[whole:] for array in arrays)) if whole < count else found


def orthogonal(x: Tensor) -> Tensor:
    """The nearest matrix of orthonormal rows or columns, nearly: five Newton-Schulz steps."""
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else ops.transpose(x)
    x = x / ops.maximum(ops.sqrt(ops.sum(ops.square(x))), 1e-7)
    for _ in range(5):
        gram = ops.matmul(x, ops.transpose(x))
        x = 3.4445 * x + ops.matmul(-4.7750 * gram + 2.0315 * ops.matmul(gram, gram), x)
    return x if wide else ops.transpose(x)
