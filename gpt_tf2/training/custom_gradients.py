"""GELU and attention for training: the functions of `model.py`, with gradients written by hand.

They compute the same values. Their gradients take fewer passes over memory than those that automatic differentiation
finds, and keep less between the forward and the backward pass.
"""

import math
from typing import Any

from keras import ops

from gpt_tf2.backend.compiling import fuse
from gpt_tf2.model import Tensor

GELU_SCALE = math.sqrt(2 / math.pi)


@ops.custom_gradient
def gelu(x: Tensor) -> tuple[Tensor, Any]:
    """Compute `model.gelu` in float32. The gradient needs nothing but x."""
    return compute_gelu(x), lambda dy: differentiate_gelu(x, dy)


@fuse
def compute_gelu(x: Tensor) -> Tensor:
    wide = ops.cast(x, "float32")
    return ops.cast(0.5 * wide * (1 + ops.tanh(GELU_SCALE * (wide + 0.044715 * wide**3))), x.dtype)


@fuse
def differentiate_gelu(x: Tensor, dy: Tensor) -> Tensor:
    wide = ops.cast(x, "float32")
    tanh = ops.tanh(GELU_SCALE * (wide + 0.044715 * wide**3))
    inner = GELU_SCALE * (1 + 3 * 0.044715 * wide**2)
    return ops.cast(ops.cast(dy, "float32") * 0.5 * (1 + tanh + wide * (1 - tanh**2) * inner), x.dtype)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Compute `model.attend` without cache and dropout: [B, H, T, D] each → [B, H, T, D].

    The gradient of the scores takes one pass: the softmax's mean of their gradients is the product of the output and
    its own gradient, summed over the channels (Dao et al. 2022, appendix B.2).
    """

    @ops.custom_gradient
    def attend_without_bias(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Any]:
        scale = query.shape[-1] ** -0.5
        weights = ops.softmax(ops.matmul(query * scale, swap_last_axes(keys)) + bias)  # [B, H, T, T]
        output = ops.matmul(weights, values)  # [B, H, T, D]

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean = ops.sum(ops.cast(dy, "float32") * ops.cast(output, "float32"), axis=-1, keepdims=True)  # [B,H,T,1]
            dweights = ops.matmul(dy, swap_last_axes(values))  # [B, H, T, T]
            dscores = differentiate_softmax(weights, dweights, mean, scale)  # [B, H, T, T]
            return (
                ops.matmul(dscores, keys),
                ops.matmul(swap_last_axes(dscores), query),
                ops.matmul(swap_last_axes(weights), dy),
            )

        return output, gradient

    return attend_without_bias(query, keys, values)


def attend_in_halves(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Compute `attend` under a causal bias, with a quarter less work: earlier tokens never attend to the later half."""
    half = ops.shape(query)[2] // 2
    early = (array[:, :, :half] for array in (query, keys, values, bias[..., :half]))
    return ops.concatenate([attend(*early), attend(query[:, :, half:], keys, values, bias[:, :, half:])], axis=2)


@fuse
def differentiate_softmax(weights: Tensor, dy: Tensor, mean: Tensor, scale: float) -> Tensor:
    wide = ops.cast(weights, "float32") * (ops.cast(dy, "float32") - mean) * scale
    return ops.cast(wide, weights.dtype)


def swap_last_axes(x: Tensor) -> Tensor:
    """[B, H, T, D] → [B, H, D, T]."""
    return ops.transpose(x, (0, 1, 3, 2))
