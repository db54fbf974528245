"""Optimizers as pure functions of one tensor; what a step changes is compiled into one pass over its memory.

All take `update(weight, gradient, slots, rate, step)` → the new weight and slots, in float32. `step` counts from 1;
`slots(shape)` are the shapes of what is kept for a tensor, at first 0. Weight decay is decoupled (Loshchilov and Hutter
2019): `rate · decay · weight`, and of matrices alone.
"""

import dataclasses
import math
from typing import Protocol

from keras import ops

from gpt_tf2.errors import InputError
from gpt_tf2.model import Tensor

Shape = tuple[int, ...]
Slots = tuple[Tensor, ...]


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
        share, square = step**-0.8, ops.square(gradient)
        if len(slots) == 2:
            rows, columns = (
                old + share * (ops.mean(square, axis=axis) - old) for old, axis in zip(slots, (1, 0), strict=True)
            )
            slots = rows, columns
            moments = (rows / ops.maximum(ops.mean(rows), self.least))[:, None] * columns
        else:
            moments = slots[0] + share * (square - slots[0])
            slots = (moments,)
        direction = gradient * ops.rsqrt(ops.maximum(moments, self.least**2))
        size = ops.minimum(rate, step**-0.5) * ops.maximum(self.least_weight, rms(weight))
        return decayed(weight, rate * self.decay) - size / ops.maximum(1.0, rms(direction)) * direction, slots


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
        (mean,) = slots
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
        mean = self.momentum * slots[0] + (1 - self.momentum) * gradient
        direction = orthogonal(self.momentum * mean + (1 - self.momentum) * gradient)
        scale = 0.2 * math.sqrt(max(weight.shape))
        return decayed(weight, rate * self.decay) - rate * scale * direction, (mean,)

    def _is_hidden(self, shape: Shape) -> bool:
        """Of a block, and not an embedding: none of a block's matrices is more than four times as long as wide."""
        return len(shape) == 2 and max(shape) <= 4 * min(shape)


OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor, "lion": Lion, "muon": Muon}


def find_optimizer(name: str, decay: float) -> Optimizer:
    """The optimizer of a name. Raises InputError if there is none."""
    if name not in OPTIMIZERS:
        raise InputError(f"--optimizer {name}: give one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](decay)


def decayed(weight: Tensor, share: Tensor) -> Tensor:
    return weight - share * weight if len(weight.shape) == 2 else weight


def rms(x: Tensor) -> Tensor:
    return ops.sqrt(ops.mean(ops.square(x)))


def orthogonal(x: Tensor) -> Tensor:
    """The nearest matrix of orthonormal rows or columns, nearly: five Newton-Schulz steps."""
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else ops.transpose(x)
    x = x / ops.maximum(ops.sqrt(ops.sum(ops.square(x))), 1e-7)
    for _ in range(5):
        gram = ops.matmul(x, ops.transpose(x))
        x = 3.4445 * x + ops.matmul(-4.7750 * gram + 2.0315 * ops.matmul(gram, gram), x)
    return x if wide else ops.transpose(x)
