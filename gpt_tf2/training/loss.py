"""The next-token loss with its gradients, a chunk of tokens at a time: never are all logits there at once."""

import functools

import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import kernel, use_xla
from gpt_tf2.model import Tensor
from gpt_tf2.training.memory import CHUNK


class Head:
    """Hidden states [K, C] → the sum of the next-token losses, and its gradients.

    learns: whether the token embedding is trained. chunk: how many logits there may be at once.
    """

    def __init__(self, learns: bool, chunk: int = CHUNK):
        self.chunk = chunk
        self._loss = kernel(chunk_loss)
        self._gradients = kernel(functools.partial(chunk_gradients, learns=learns))

    def loss(self, wte: Tensor, z: Tensor, targets: np.ndarray, weights: np.ndarray) -> Tensor:
        """Cross-entropy of z [K, C] against ids [K], in nats, summed with the weights [K]."""
        parts = chunks(len(targets), self.chunk // wte.shape[0])
        return sum(self._loss(wte, z[part], targets[part], weights[part]) for part in parts)

    def gradients(
        self, wte: Tensor, z: Tensor, targets: np.ndarray, weights: np.ndarray, scale: float
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The same, and its gradients times `scale`. One chunk follows the other, so one chunk's logits are alive.

        Returns:
            The loss, and gradients: by z [K, C]; by the token embedding [V, C], without what the targets' own rows get
            (None where it is not trained); what is to be added to those rows, float32 [K, C].
        """
        factors = (weights * scale).astype("float32")
        found, dense = [], None
        for part in chunks(len(targets), self.chunk // wte.shape[0]):
            *some, dense = self._gradients(wte, z[part], targets[part], weights[part], factors[part], dense)
            found.append(some)
        losses, of_z, rows = zip(*found, strict=True)
        return sum(losses), ops.concatenate(of_z), dense, ops.concatenate(rows)


def chunks(count: int, most: int) -> list[slice]:
    """Even parts of `count` tokens, of at most `most` each."""
    parts = -(-count // max(1, most))
    size = -(-count // parts)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def chunk_loss(wte: Tensor, z: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = ops.cast(ops.matmul(z, ops.transpose(wte)), "float32")
    return ops.sum(weights * (ops.logsumexp(logits, axis=-1) - at(logits, targets)))


def chunk_gradients(
    wte: Tensor,
    z: Tensor,
    targets: Tensor,
    weights: Tensor,
    factors: Tensor,
    dense: Tensor | None,
    learns: bool,
) -> tuple[Tensor, ...]:
    """The loss; its gradients by z, by the targets' rows of wte, and by all of it without that.

    The gradient by the logits is softmax − one-hot. The one-hot part is rows of wte and of z and needs no pass over the
    logits, and the factors are multiplied into z's side. So the softmax is used as it comes.

    Args:
        factors: float32 [K], of the gradients.
        dense: the last of the results for the chunks before.
    """
    logits = ops.matmul(z, ops.transpose(wte))
    half = ops.dtype(z) == "float16"  # whose small probabilities would be 0
    lift = 1024.0 if half else 1.0
    wide = "float32" if half or use_xla() else ops.dtype(z)
    softmax = ops.softmax(ops.cast(logits, wide))
    likely = ops.maximum(ops.cast(at(softmax, targets), "float32"), 1e-38)
    loss = -ops.sum(weights * ops.log(likely))
    softmax = ops.cast(softmax * lift, z.dtype)
    mean = ops.cast(ops.matmul(softmax, wte), "float32") / lift
    own = ops.cast(ops.take(wte, targets, axis=0), "float32")
    by_z = ops.cast((mean - own) * factors[:, None], z.dtype)
    rows = ops.cast(z, "float32") * -factors[:, None]
    if not learns:
        return loss, by_z, rows, None
    by_wte = ops.matmul(ops.transpose(softmax), ops.cast(rows / -lift, z.dtype))
    return loss, by_z, rows, by_wte if dense is None else dense + by_wte


def at(rows: Tensor, targets: Tensor) -> Tensor:
    """Each row's value of its target: [K, V] → [K]."""
    return ops.take_along_axis(rows, targets[:, None], axis=1)[:, 0]
