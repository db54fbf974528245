"""What a block computes between its matrix products, for training: functions of `model.py` with own gradients.

They compute the same values. Their gradients take fewer passes over memory than those that automatic differentiation
finds, and keep less between the forward and the backward pass.
"""

import dataclasses
import functools
import math
from typing import Any

import keras
from keras import ops

from gpt_tf2 import model
from gpt_tf2.backend.compiling import fuse
from gpt_tf2.model import BlockFunctions, SameShape, Tensor, Weights, merge_heads

GELU_SCALE = math.sqrt(2 / math.pi)


@ops.custom_gradient
def add_and_gelu(product: Tensor, bias: Tensor) -> tuple[Tensor, Any]:
    """Compute `model.add_and_gelu` in float32. The gradient needs nothing but the inputs."""

    def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
        dx = differentiate_gelu(product, bias, dy)
        return dx, sum_rows(dx)

    return compute_gelu(product, bias), gradient


@fuse
def compute_gelu(product: Tensor, bias: Tensor) -> Tensor:
    x = ops.cast(product, "float32") + bias
    return ops.cast(0.5 * x * (1 + ops.tanh(GELU_SCALE * (x + 0.044715 * x**3))), product.dtype)


@fuse
def differentiate_gelu(product: Tensor, bias: Tensor, dy: Tensor) -> Tensor:
    x = ops.cast(product, "float32") + bias
    tanh = ops.tanh(GELU_SCALE * (x + 0.044715 * x**3))
    inner = GELU_SCALE * (1 + 3 * 0.044715 * x**2)
    return ops.cast(ops.cast(dy, "float32") * 0.5 * (1 + tanh + x * (1 - tanh**2) * inner), product.dtype)


@ops.custom_gradient
def add_to_residual(x: Tensor, product: Tensor, bias: Tensor) -> tuple[Tensor, Any]:
    """Compute `model.add_to_residual` without dropout."""
    return add_three(x, product, bias), lambda dy: (dy, dy, sum_rows(dy))


@fuse
def add_three(x: Tensor, product: Tensor, bias: Tensor) -> Tensor:
    return ops.cast(ops.cast(x, "float32") + ops.cast(product, "float32") + bias, x.dtype)


def split_qkv(product: Tensor, bias: Tensor, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `model.split_qkv`."""

    @ops.custom_gradient
    def split(product: Tensor, bias: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Any]:
        def gradient(*parts: Any) -> tuple[Tensor, Tensor]:
            dx = merge_qkv(*keras.tree.flatten(parts))  # JAX passes one tuple
            return dx, sum_rows(dx)

        return add_and_split(product, bias, n_head), gradient

    return split(product, bias)


@fuse
def add_and_split(product: Tensor, bias: Tensor, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    return model.split_qkv(product, bias, n_head)


@fuse
def merge_qkv(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """[B, H, T, D] each → [B, T, 3·C]."""
    return ops.concatenate([merge_heads(part) for part in (query, keys, values)], axis=-1)


def sum_rows(x: Tensor) -> Tensor:
    """Sum x [..., C] to a bias's gradient [C], as a product, which reads x once."""
    rows = ops.reshape(x, (-1, x.shape[-1]))
    return ops.cast(ops.matmul(ops.ones((1, ops.shape(rows)[0]), x.dtype), rows)[0], "float32")


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Compute `model.layer_norm`."""
    rows = ops.reshape(x, (-1, x.shape[-1]))
    return ops.reshape(normalize(rows, weights[f"{name}/g"], weights[f"{name}/b"]), ops.shape(x))


@ops.custom_gradient
def normalize(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Any]:
    """Normalize rows [N, C], as `model.layer_norm` does. The gradient needs nothing but them and the gain."""
    return compute_norm(x, gain, bias), lambda dy: differentiate_norm(x, gain, dy)


@fuse
def compute_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    normal, _ = standardize(x)
    return ops.cast(normal * gain + bias, x.dtype)


@fuse
def differentiate_norm(x: Tensor, gain: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    normal, scale = standardize(x)
    dy = ops.cast(dy, "float32")
    dnormal = dy * gain
    mean = ops.mean(dnormal, axis=-1, keepdims=True)
    along = ops.mean(dnormal * normal, axis=-1, keepdims=True)
    dx = scale * (dnormal - mean - normal * along)
    return ops.cast(dx, x.dtype), ops.sum(dy * normal, axis=0), ops.sum(dy, axis=0)


def standardize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows [N, C] in float32 with mean 0 and variance 1, and what they were multiplied by [N, 1]."""
    wide = ops.cast(x, "float32")
    centered = wide - ops.mean(wide, axis=-1, keepdims=True)
    scale = ops.rsqrt(ops.mean(ops.square(centered), axis=-1, keepdims=True) + 1e-5)
    return centered * scale, scale


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, parts: int) -> Tensor:
    """Compute `model.attend` without cache and dropout, under a causal bias: [B, H, T, D] each → [B, H, T, D].

    The tokens are attended to in parts: no query needs the keys of a later part, which saves up to half of the work.
    The gradient of the scores takes one pass: the softmax's mean of their gradients is the product of the output and
    its own gradient, summed over the channels (Dao et al. 2022, appendix B.2).

    parts: at most T.
    """
    time = ops.shape(query)[2]
    ends = [time * (part + 1) // parts for part in range(parts)]
    spans = list(zip([0, *ends], ends, strict=False))

    @ops.custom_gradient
    def attend_without_bias(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Any]:
        scale = query.shape[-1] ** -0.5
        scaled, weights, outputs = query * scale, [], []
        for first, end in spans:
            scores = ops.matmul(scaled[:, :, first:end], swap_last_axes(keys[:, :, :end])) + bias[:, :, first:end, :end]
            weights.append(ops.softmax(scores))  # [B, H, end - first, end]
            outputs.append(ops.matmul(weights[-1], values[:, :, :end]))  # [B, H, end - first, D]
        output = join(outputs)  # [B, H, T, D]

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean = sum_products(dy, output)  # [B, H, T, 1]
            dqueries, dkeys, dvalues = [], [], []
            for (first, end), part in zip(spans, weights, strict=True):
                dpart = dy[:, :, first:end]
                dweights = ops.matmul(dpart, swap_last_axes(values[:, :, :end]))
                dscores = differentiate_softmax(part, dweights, mean[:, :, first:end], scale)
                dqueries.append(ops.matmul(dscores, keys[:, :, :end]))
                dkeys.append(ops.matmul(swap_last_axes(dscores), query[:, :, first:end]))
                dvalues.append(ops.matmul(swap_last_axes(part), dpart))
            return join(dqueries), sum_overlapping(dkeys, spans), sum_overlapping(dvalues, spans)

        return output, gradient

    return attend_without_bias(query, keys, values)


def sum_overlapping(parts: list[Tensor], spans: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum gradients of the first tokens, of more and more of them: [B, H, end, D] for each span → [B, H, T, D]."""
    total = parts[-1]
    for part, (_, end) in zip(reversed(parts[:-1]), reversed(spans[:-1]), strict=True):
        total = join([total[:, :, :end] + part, total[:, :, end:]])
    return total


def join(parts: list[Tensor]) -> Tensor:
    """Concatenate over the tokens, the third axis."""
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=2)


@fuse
def sum_products(x: Tensor, y: Tensor) -> Tensor:
    """Sum the products over the last axis, in float32: [..., D] each → [..., 1]."""
    return ops.sum(ops.cast(x, "float32") * ops.cast(y, "float32"), axis=-1, keepdims=True)


@fuse
def differentiate_softmax(weights: Tensor, dy: Tensor, mean: Tensor, scale: float) -> Tensor:
    wide = ops.cast(weights, "float32") * (ops.cast(dy, "float32") - mean) * scale
    return ops.cast(wide, weights.dtype)


FUNCTIONS = BlockFunctions(layer_norm, split_qkv, add_and_gelu, add_to_residual)


def with_dropout(drop: SameShape) -> BlockFunctions:
    """Return the functions for a block with dropout."""
    return dataclasses.replace(FUNCTIONS, add=functools.partial(model.add_to_residual, drop=drop))


def fused_by_xla(drop: SameShape) -> BlockFunctions:
    """Return the functions for a block that XLA compiles whole."""
    return BlockFunctions(activate=add_and_gelu, add=functools.partial(model.add_to_residual, drop=drop))


def swap_last_axes(x: Tensor) -> Tensor:
    """[B, H, T, D] → [B, H, D, T]."""
    return ops.transpose(x, (0, 1, 3, 2))
