"""The next-token loss and its gradients, computed in chunks, so that the full logits are never materialized.

Letters in shapes: K predicted tokens, C channels, V tokens in the vocabulary.
"""

import functools

import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import compile_kernel, uses_xla
from gpt_tf2.model import Tensor
from gpt_tf2.training.chunks import split_into_chunks


class ChunkedLoss:
    """The loss of hidden states, and its gradients.

    Args:
        trains_embedding: whether the gradient of the token embedding is computed.
        chunk: logits to compute at once.
    """

    def __init__(self, trains_embedding: bool, chunk: int):
        self.chunk = chunk
        self._loss = compile_kernel(chunk_loss)
        self._log_probabilities = compile_kernel(chunk_log_probabilities)
        self._gradients = compile_kernel(functools.partial(chunk_gradients, trains_embedding=trains_embedding))

    def loss(self, wte: Tensor, z: Tensor, targets: np.ndarray, weights: np.ndarray) -> Tensor:
        """Compute the weighted sum of cross-entropies, in nats.

        Args:
            wte: token embedding [V, C].
            z: hidden states [K, C].
            targets: ids [K].
            weights: float32 [K].
        """
        chunks = split_into_chunks(len(targets), self.chunk // wte.shape[0])
        return sum(self._loss(wte, z[chunk], targets[chunk], weights[chunk]) for chunk in chunks)

    def log_probabilities(self, wte: Tensor, z: Tensor, targets: np.ndarray) -> Tensor:
        """Compute the log-probabilities of the targets, float32 [K], in nats. Arguments as in `loss`."""
        chunks = split_into_chunks(len(targets), self.chunk // wte.shape[0])
        return ops.concatenate([self._log_probabilities(wte, z[chunk], targets[chunk]) for chunk in chunks])

    def gradients(
        self, wte: Tensor, z: Tensor, targets: np.ndarray, weights: np.ndarray, scale: float
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Compute the loss and its gradients times `scale`. Arguments as in `loss`.

        Chunks run one after the other: each takes the embedding's gradient of the chunks before it.

        Returns:
            The loss; the gradient of z [K, C]; the dense part of the token embedding's gradient [V, C], None if it is
            not trained; and the other part, float32 rows [K, C] to be added to the rows of the targets.
        """
        factors = (weights * scale).astype("float32")
        results, dense = [], None
        for chunk in split_into_chunks(len(targets), self.chunk // wte.shape[0]):
            *result, dense = self._gradients(wte, z[chunk], targets[chunk], weights[chunk], factors[chunk], dense)
            results.append(result)
        losses, dz, rows = zip(*results, strict=True)
        return sum(losses), ops.concatenate(dz), dense, ops.concatenate(rows)


def chunk_loss(wte: Tensor, z: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute one chunk's loss."""
    return ops.sum(-weights * chunk_log_probabilities(wte, z, targets))


def chunk_log_probabilities(wte: Tensor, z: Tensor, targets: Tensor) -> Tensor:
    """Compute the log-probabilities of one chunk's targets [K]."""
    logits = ops.cast(ops.matmul(z, ops.transpose(wte)), "float32")  # [K, V]
    return pick(logits, targets) - ops.logsumexp(logits, axis=-1)


def chunk_gradients(
    wte: Tensor,
    z: Tensor,
    targets: Tensor,
    weights: Tensor,
    factors: Tensor,
    dense: Tensor | None,
    trains_embedding: bool,
) -> tuple[Tensor, ...]:
    """Compute one chunk's loss, gradient of z, rows for the targets, and dense gradient of the embedding.

    The gradient of the logits is softmax − one-hot. Its one-hot part turns into rows of wte and z, without a pass over
    the logits. The factors go into z's side, so that the softmax is used as it comes.

    Args:
        factors: float32 [K], of each token's gradient.
        dense: the embedding's gradient of the chunks before.
    """
    logits = ops.matmul(z, ops.transpose(wte))  # [K, V]
    half = ops.dtype(z) == "float16"  # in which small probabilities would be 0
    lift = 1024.0 if half else 1.0
    wide = "float32" if half or uses_xla() else ops.dtype(z)
    softmax = ops.softmax(ops.cast(logits, wide))  # [K, V]
    target_probabilities = ops.maximum(ops.cast(pick(softmax, targets), "float32"), 1e-38)  # [K]
    loss = -ops.sum(weights * ops.log(target_probabilities))
    softmax = ops.cast(softmax * lift, z.dtype)
    mean = ops.cast(ops.matmul(softmax, wte), "float32") / lift  # [K, C]
    target_rows = ops.cast(ops.take(wte, targets, axis=0), "float32")  # [K, C]
    dz = ops.cast((mean - target_rows) * factors[:, None], z.dtype)
    rows = ops.cast(z, "float32") * -factors[:, None]  # [K, C]
    if not trains_embedding:
        return loss, dz, rows, None
    dwte = ops.matmul(ops.transpose(softmax), ops.cast(rows / -lift, z.dtype))  # [V, C]
    return loss, dz, rows, dwte if dense is None else dense + dwte


def pick(x: Tensor, targets: Tensor) -> Tensor:
    """Pick each row's value at its target: [K, V] and ids [K] → [K]."""
    return ops.take_along_axis(x, targets[:, None], axis=1)[:, 0]
