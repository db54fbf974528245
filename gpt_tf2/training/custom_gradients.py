"""The parts of a block whose gradients can be had in fewer passes over memory than by differentiating step by step."""

import math
from typing import Any

from keras import ops

from gpt_tf2.backend.compiling import fused
from gpt_tf2.model import Tensor

SCALE = math.sqrt(2 / math.pi)


@ops.custom_gradient
def gelu(x: Tensor) -> tuple[Tensor, Any]:
    """As `model.gelu`, computed in float32; its gradient is computed from its input alone."""
    return gelu_value(x), lambda dy: gelu_gradient(x, dy)


@fused
def gelu_value(x: Tensor) -> Tensor:
    wide = ops.cast(x, "float32")
    return ops.cast(0.5 * wide * (1 + ops.tanh(SCALE * (wide + 0.044715 * wide**3))), x.dtype)


@fused
def gelu_gradient(x: Tensor, dy: Tensor) -> Tensor:
    wide = ops.cast(x, "float32")
    tanh = ops.tanh(SCALE * (wide + 0.044715 * wide**3))
    inner = SCALE * (1 + 3 * 0.044715 * wide**2)
    return ops.cast(ops.cast(dy, "float32") * 0.5 * (1 + tanh + wide * (1 - tanh**2) * inner), x.dtype)


def attend_in_halves(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """As `attend`: the first half of the tokens sees nothing of the second, which is a quarter of the work."""
    half = ops.shape(query)[2] // 2
    seen = (array[:, :, :half] for array in (query, keys, values, bias[..., :half]))
    return ops.concatenate([attend(*seen), attend(query[:, :, half:], keys, values, bias[:, :, half:])], axis=2)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """As `model.attend` without cache and dropout.

    The gradient by the scores takes one pass, as their mean under the softmax is that of the output with its own
    gradient (Dao et al. 2022, appendix B.2).
    """

    @ops.custom_gradient
    def attended(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Any]:
        scale = query.shape[-1] ** -0.5
        weights = ops.softmax(ops.matmul(query * scale, turned(keys)) + bias)
        output = ops.matmul(weights, values)

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean = ops.sum(ops.cast(dy, "float32") * ops.cast(output, "float32"), axis=-1, keepdims=True)
            scores = score_gradient(weights, ops.matmul(dy, turned(values)), mean, scale)
            return ops.matmul(scores, keys), ops.matmul(turned(scores), query), ops.matmul(turned(weights), dy)

        return output, gradient

    return attended(query, keys, values)


@fused
def score_gradient(weights: Tensor, dy: Tensor, mean: Tensor, scale: float) -> Tensor:
    wide = ops.cast(weights, "float32") * (ops.cast(dy, "float32") - mean) * scale
    return ops.cast(wide, weights.dtype)


def turned(x: Tensor) -> Tensor:
    """[B, H, T, D] → [B, H, D, T]."""
    return ops.transpose(x, (0, 1, 3, 2))
