"""DPO's reference: what a model thinks of pairs of completions before it is trained on them."""

from collections.abc import Callable, Sequence

import numpy as np

from gpt_tf2.data.pairs import PackedPairs
from gpt_tf2.model import GPT2
from gpt_tf2.training.blockwise import BlockwiseModel


def measure_reference(
    network: GPT2, data: Sequence[PackedPairs], batch_size: int, show: Callable[[int, int], None]
) -> list[np.ndarray]:
    """Compute the log-probability of every completion of pairs, without dropout.

    Args:
        batch_size: pairs of sequences to compute at once.
        show: called with how many pairs are done, and of how many.

    Returns:
        For each data float32 [spans], in nats: at a completion's span the sum over its tokens and the end of text;
        elsewhere 0.
    """
    blockwise, done = BlockwiseModel(network, trained=()), 0
    total = sum(len(pairs.examples) for pairs in data)
    references = [np.zeros(len(pairs.tokens.ends), "float32") for pairs in data]
    for pairs, reference in zip(data, references, strict=True):
        for spans, firsts, batch in pairs.list_all(batch_size):
            values = np.asarray(blockwise.log_probabilities(batch), "float64")
            reference[spans] = np.add.reduceat(values[batch.weights > 0], firsts)
            done += len(spans) // 2
            show(done, total)
    return references
