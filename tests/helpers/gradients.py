"""Losses and gradients as arrays, on either backend."""

import numpy as np

from gpt_tf2.data.batches import Batch
from gpt_tf2.model import GPT2
from gpt_tf2.training.blockwise import BlockwiseModel


def loss_and_gradients(model: GPT2, batch: Batch, remat: bool = False) -> tuple[float, dict[str, np.ndarray]]:
    """The mean loss of a batch, and the gradient of every tensor of the model."""
    loss, gradients = compute_gradients(BlockwiseModel(model, model.tensors(), remat), batch)
    return loss / batch.weights.sum(), gradients


def compute_gradients(blockwise: BlockwiseModel, batch: Batch, **options: int) -> tuple[float, dict[str, np.ndarray]]:
    """The summed loss of a batch, and the mean loss's gradients by OpenAI's names."""
    loss, backward = blockwise.gradients(batch, 1 / batch.weights.sum(), **options)
    return float(loss), {prefix + name: np.asarray(g) for prefix, part in backward for name, g in part.items()}
