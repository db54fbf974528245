"""DPO's reference: what a model thinks of pairs of completions before it is trained on them."""

from collections.abc import Callable, Iterable

import numpy as np

from gpt_tf2.data.pairs import PackedPairs
from gpt_tf2.model import GPT2
from gpt_tf2.training.blockwise import BlockwiseModel


def measure_reference(
    network: GPT2, data: Iterable[PackedPairs], batch_size: int, show: Callable[[int, int], None]
) -> np.ndarray:
    """Compute the log-probability of every completion of pairs, without dropout.

    Args:
        data: of the same tokens.
        batch_size: pairs of sequences to compute at once.
        show: called with how many pairs are done, and of how many.

    Returns:
        float32 [spans], in nats: at a completion's span the sum over its tokens and the end of text; elsewhere 0.
    """
    blockwise, data, done = BlockwiseModel(network, trained=()), list(data), 0
    total = sum(len(pairs.examples) for pairs in data)
    reference = np.zeros(len(data[0].tokens.ends), "float32")
    for pairs in data:
        for spans, firsts, batch in pairs.list_all(batch_size):
            values = np.asarray(blockwise.log_probabilities(batch), "float64")
            reference[spans] = np.add.reduceat(values[batch.weights > 0], firsts)
            done += len(spans) // 2
            show(done, total)
    return reference
