"""The next-token loss inside one compiled graph, on JAX: the gradients are computed in the forward pass.

So the logits are computed once, a chunk at a time, and only one chunk of them is ever alive.

Letters in shapes: K predicted tokens, C channels, V tokens in the vocabulary, P tokens in the padded vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gpt_tf2.model import Tensor

LANES = 128  # a GPU multiplies fastest in multiples of this: 50,257 tokens are padded to 50,304


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def cross_entropy(
    z: Tensor, wte: Tensor, targets: Tensor, weights: Tensor, scale: Tensor, chunk: int, trains_embedding: bool
) -> Tensor:
    """The weighted sum of cross-entropies times `scale`, float32. It is differentiated by z and wte.

    Args:
        z: hidden states [K, C].
        wte: token embedding [V, C], in the dtype of z.
        targets: ids [K].
        weights: float32 [K].
        scale: factor of the loss. It is applied before the gradients are cast to the dtype of z.
        chunk: predicted tokens to compute at once, at most.
        trains_embedding: whether the gradient of wte is computed; else it is 0.
    """
    return compute(z, wte, targets, weights, scale, chunk, differentiates=False, trains_embedding=False)[0] * scale


def forward(
    z: Tensor, wte: Tensor, targets: Tensor, weights: Tensor, scale: Tensor, chunk: int, trains_embedding: bool
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The loss, and what the backward pass needs: both gradients."""
    loss, dz, dwte = compute(z, wte, targets, weights, scale, chunk, True, trains_embedding)
    return loss * scale, (dz, dwte)


def backward(chunk: int, trains_embedding: bool, gradients: tuple[Tensor, Tensor], dy: Tensor) -> tuple[Any, ...]:
    """The gradients, times that of the loss."""
    dz, dwte = gradients
    return dz * dy.astype(dz.dtype), dwte * dy.astype(dwte.dtype), None, None, None


cross_entropy.defvjp(forward, backward)


def log_probabilities(z: Tensor, wte: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """The log-probabilities of the targets, float32 [K], in nats. They have no gradient.

    For the arguments see `cross_entropy`.
    """
    z, wte = lax.stop_gradient((z, wte))
    chunks = -(-len(targets) // chunk)
    chunk = -(-len(targets) // chunks)
    padded = jnp.pad(wte, ((0, -len(wte) % LANES), (0, 0)))  # [P, C]
    is_token = jnp.arange(len(padded)) < len(wte)

    def compute_chunk(part: tuple[Tensor, Tensor]) -> Tensor:
        z, targets = part
        logits = jnp.where(is_token, (z @ padded.T).astype("float32"), -jnp.inf)  # [chunk, P]
        of_target = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
        return of_target - jax.nn.logsumexp(logits, axis=-1)

    return lax.map(compute_chunk, (split(z, chunk), split(targets, chunk))).ravel()[: len(targets)]


def compute(
    z: Tensor,
    wte: Tensor,
    targets: Tensor,
    weights: Tensor,
    scale: Tensor,
    chunk: int,
    differentiates: bool,
    trains_embedding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum of cross-entropies, and its gradients times `scale`, or zeros where they are not asked for."""
    n_vocab, count = wte.shape[0], z.shape[0]
    chunks = -(-count // chunk)
    chunk = -(-count // chunks)  # even sizes, so that hardly any is filled up
    padded = jnp.pad(wte, ((0, -n_vocab % LANES), (0, 0)))  # [P, C]
    ids = jnp.arange(padded.shape[0])

    def add_chunk(sums: tuple[Tensor, Tensor], part: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, Tensor]:
        (loss, dwte), (z, targets, weights) = sums, part
        logits = jnp.where(ids < n_vocab, (z @ padded.T).astype("float32"), -jnp.inf)  # [chunk, P]
        top = jnp.max(logits, axis=-1, keepdims=True)
        exponentials = jnp.exp(logits - top)
        total = jnp.sum(exponentials, axis=-1, keepdims=True)
        of_target = jnp.take_along_axis(logits, targets[:, None], axis=1)
        loss = loss + jnp.sum(weights * (jnp.log(total) + top - of_target)[:, 0])
        if not differentiates:
            return (loss, dwte), jnp.zeros(())
        dlogits = (exponentials / total - (ids == targets[:, None])) * (weights * scale)[:, None]
        dlogits = dlogits.astype(z.dtype)  # [chunk, P]
        if trains_embedding:
            dwte = dwte + jnp.matmul(dlogits.T, z, preferred_element_type="float32")  # [P, C]
        return (loss, dwte), dlogits @ padded

    dwte = jnp.zeros(padded.shape if trains_embedding else (), "float32")
    parts = split(z, chunk), split(targets, chunk), split(weights, chunk)
    (loss, dwte), dz = lax.scan(add_chunk, (jnp.float32(0), dwte), parts)
    if not differentiates:
        return loss, dz, dwte
    dwte = dwte[:n_vocab].astype(wte.dtype) if trains_embedding else jnp.zeros_like(wte)
    return loss, dz.reshape(-1, z.shape[-1])[:count], dwte


def split(x: Tensor, chunk: int) -> Tensor:
    """Rows in chunks, the last one filled up with zeros: [K, …] → [chunks, chunk, …]."""
    x = jnp.pad(x, ((0, -len(x) % chunk), *[(0, 0)] * (x.ndim - 1)))
    return x.reshape(-1, chunk, *x.shape[1:])
