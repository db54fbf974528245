"""A loss and its gradients, part by part, on whichever backend runs."""

import numpy as np

from gpt_tf2.data.batches import Batch
from gpt_tf2.model import GPT2
from gpt_tf2.training.walk import Walk


def loss_and_gradients(model: GPT2, batch: Batch, remat: bool = False) -> tuple[float, dict[str, np.ndarray]]:
    """The mean loss of a batch, and its gradient by every tensor."""
    total = batch.weights.sum()
    loss, back = Walk(model, model.tensors(), remat).gradients(batch, 1 / total)
    found = {prefix + name: np.asarray(g) for prefix, part in back for name, g in part.items()}
    return float(loss) / total, found
