"""Optimizers as pure functions of one tensor; a step's update is compiled into one pass over its memory.

Each has two methods: `state_shapes(shape)`, the shapes of the optimizer state of a tensor, which starts at 0; and
`update(weight, gradient, state, rate, step)`, which returns the new weight and state, in float32. The gradient may have
less precision; `step` counts from 1. Weight decay is decoupled (Loshchilov and Hutter 2019): it subtracts
`rate · weight_decay · weight`, from matrices only.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol, TypeVar

from keras import ops

from gpt_tf2.errors import InputError
from gpt_tf2.model import Tensor

Shape = tuple[int, ...]
OptimizerState = tuple[Tensor, ...]  # of one tensor
Carry = TypeVar("Carry", bound=tuple)


class Optimizer(Protocol):
    """The methods of an optimizer."""

    def state_shapes(self, shape: Shape) -> list[Shape]:
        """Return the shapes of the optimizer state of a tensor."""

    def update(
        self, weight: Tensor, gradient: Tensor, state: OptimizerState, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, OptimizerState]:
        """Return a tensor and its optimizer state after one step."""


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam (Kingma and Ba 2015, algorithm 1), with epsilon added to the bias-corrected root, as in torch."""

    weight_decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def state_shapes(self, shape: Shape) -> list[Shape]:
        return [shape, shape]

    def update(
        self, weight: Tensor, gradient: Tensor, state: OptimizerState, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, OptimizerState]:
        gradient = ops.cast(gradient, "float32")
        mean, square = state
        mean = mean + (1 - self.beta_1) * (gradient - mean)
        square = square + (1 - self.beta_2) * (ops.square(gradient) - square)
        root = ops.sqrt(square / (1 - self.beta_2**step)) + self.epsilon
        weight = decay(weight, rate * self.weight_decay)
        return weight - rate / (1 - self.beta_1**step) * mean / root, (mean, square)


@dataclasses.dataclass(frozen=True)
class Adafactor:
    """Second moments of a matrix's rows and columns, not of each element (Shazeer and Stern 2018, algorithm 4).

    As in torch: a step is relative to the tensor's root mean square, at most `1/√step`, and clipped to a root mean
    square of 1.
    """

    weight_decay: float = 0.0
    least: float = 2.0**-23  # of a second moment's root
    least_weight: float = 1e-3  # of a tensor's root mean square

    def state_shapes(self, shape: Shape) -> list[Shape]:
        return [shape[:1], shape[1:]] if len(shape) == 2 else [shape]

    def update(
        self, weight: Tensor, gradient: Tensor, state: OptimizerState, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, OptimizerState]:
        share = step**-0.8
        if len(state) == 2:
            of_rows, of_columns = mean_squares(gradient)
            rows, columns = state[0] + share * (of_rows - state[0]), state[1] + share * (of_columns - state[1])
            state = rows, columns
            roots = ops.rsqrt(rows / ops.maximum(ops.mean(rows), self.least))[:, None], ops.rsqrt(columns)[None]
        else:
            state = (state[0] + share * (ops.square(ops.cast(gradient, "float32")) - state[0]),)
            roots = ops.rsqrt(state[0]), ops.ones_like(state[0])[:1]

        def direction(gradient: Tensor, by_row: Tensor) -> Tensor:
            return ops.cast(gradient, "float32") * ops.minimum(by_row * roots[1], 1 / self.least)

        norm = rms(direction, gradient, roots[0])
        size = ops.minimum(rate, step**-0.5) * ops.maximum(self.least_weight, rms(lambda w: w, weight))
        change = size / ops.maximum(1.0, norm) * direction(gradient, roots[0])
        return decay(weight, rate * self.weight_decay) - change, state


@dataclasses.dataclass(frozen=True)
class Lion:
    """The sign of a running mean (Chen et al. 2023, algorithm 2). Its rate is a third to a tenth of AdamW's."""

    weight_decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.99

    def state_shapes(self, shape: Shape) -> list[Shape]:
        return [shape]

    def update(
        self, weight: Tensor, gradient: Tensor, state: OptimizerState, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, OptimizerState]:
        gradient, (mean,) = ops.cast(gradient, "float32"), state
        direction = ops.sign(self.beta_1 * mean + (1 - self.beta_1) * gradient)
        mean = self.beta_2 * mean + (1 - self.beta_2) * gradient
        return decay(weight, rate * self.weight_decay) - rate * direction, (mean,)


@dataclasses.dataclass(frozen=True)
class Muon:
    """Orthogonalized momentum for the blocks' matrices (Jordan et al. 2024), AdamW for vectors and embeddings.

    A step is scaled to AdamW's root mean square (Liu et al. 2025, equation 4), so AdamW's rates work.
    """

    weight_decay: float = 0.0
    momentum: float = 0.95

    def state_shapes(self, shape: Shape) -> list[Shape]:
        return [shape] if self._is_hidden(shape) else AdamW().state_shapes(shape)

    def update(
        self, weight: Tensor, gradient: Tensor, state: OptimizerState, rate: Tensor, step: Tensor
    ) -> tuple[Tensor, OptimizerState]:
        if not self._is_hidden(weight.shape):
            return AdamW(self.weight_decay).update(weight, gradient, state, rate, step)
        gradient = ops.cast(gradient, "float32")
        mean = self.momentum * state[0] + (1 - self.momentum) * gradient
        direction = orthogonalize(self.momentum * mean + (1 - self.momentum) * gradient)
        scale = 0.2 * math.sqrt(max(weight.shape))
        return decay(weight, rate * self.weight_decay) - rate * scale * direction, (mean,)

    def _is_hidden(self, shape: Shape) -> bool:
        """Whether a tensor is a block's matrix: those have at most four times as many rows as columns, or reverse."""
        return len(shape) == 2 and max(shape) <= 4 * min(shape)


OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor, "lion": Lion, "muon": Muon}
SLICE = 1 << 22  # elements


def make_optimizer(name: str, weight_decay: float) -> Optimizer:
    """Make the optimizer of a name. Raises InputError if there is none.

    Example:
        >>> make_optimizer("lion", weight_decay=0.1)
        Lion(weight_decay=0.1, beta_1=0.9, beta_2=0.99)
    """
    if name not in OPTIMIZERS:
        raise InputError(f"use one of {', '.join(OPTIMIZERS)}", "optimizer", name)
    return OPTIMIZERS[name](weight_decay)


def decay(weight: Tensor, share: Tensor) -> Tensor:
    """Shrink a matrix by a share of itself; leave a vector as it is."""
    return weight - share * weight if len(weight.shape) == 2 else weight


def mean_squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean squares of a matrix's rows and columns: [N, M] → [N] and [M]."""

    def add(sums: tuple[Tensor, Tensor], start: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        squares = ops.square(ops.cast(part, "float32"))
        return ops.slice_update(sums[0], (start,), ops.mean(squares, axis=1)), sums[1] + ops.sum(squares, axis=0)

    rows, columns = fold_rows(add, (ops.zeros(x.shape[0]), ops.zeros(x.shape[1])), x)
    return rows, columns / x.shape[0]


def rms(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    """Compute the root mean square of `function(*arrays)`, of the first array's shape, without materializing it.

    function: is applied to slices of rows.
    """

    def add(total: tuple[Tensor], start: Tensor, *parts: Tensor) -> tuple[Tensor]:
        return (total[0] + ops.sum(ops.square(function(*parts))),)

    return ops.sqrt(fold_rows(add, (ops.zeros(()),), *arrays)[0] / math.prod(arrays[0].shape))


def fold_rows(function: Callable[..., Carry], carry: Carry, *arrays: Tensor) -> Carry:
    """Fold `function(carry, start, *parts)` over slices of the arrays' rows, one after the other.

    Without the loop XLA would materialize all slices at once. start: the number of a slice's first row.
    """
    count = arrays[0].shape[0]
    size = max(1, count * SLICE // max(SLICE, math.prod(arrays[0].shape)))

    # As bits: XLA would cast a whole bfloat16 array to float32 before the loop.
    bits = [ops.view(array, "uint16") if ops.dtype(array) == "bfloat16" else array for array in arrays]

    def step(i: Tensor, carry: Carry) -> Carry:
        parts = (ops.slice(a, (i * size,) + (0,) * (len(a.shape) - 1), (size, *a.shape[1:])) for a in bits)
        return function(carry, i * size, *(ops.view(p, a.dtype) for p, a in zip(parts, arrays, strict=True)))

    whole = count // size * size
    carry = ops.fori_loop(0, count // size, step, carry)
    return function(carry, whole, *(array[whole:] for array in arrays)) if whole < count else carry


def orthogonalize(x: Tensor) -> Tensor:
    """Approximate the nearest matrix with orthonormal rows or columns, by five Newton-Schulz steps."""
    is_wide = x.shape[0] <= x.shape[1]
    x = x if is_wide else ops.transpose(x)
    x = x / ops.maximum(ops.sqrt(ops.sum(ops.square(x))), 1e-7)
    for _ in range(5):
        gram = ops.matmul(x, ops.transpose(x))
        x = 3.4445 * x + ops.matmul(-4.7750 * gram + 2.0315 * ops.matmul(gram, gram), x)
    return x if is_wide else ops.transpose(x)
