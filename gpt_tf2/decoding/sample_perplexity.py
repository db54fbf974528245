"""Perplexity by a decoder: what a conversion to int8 costs is measured on a sample of text."""

import math

import numpy as np

from gpt_tf2.decoding.decoder import Decoder


def measure_perplexity(decoder: Decoder, ids: np.ndarray) -> float:
    """The perplexity per token of a sample.

    Splits the sample into windows of the decoder's context, without overlap. The first token of each is not predicted;
    tokens after the last whole window are left out.

    Args:
        ids: int [N], at least 2.
    """
    nats, length = 0.0, min(decoder.config.n_ctx, len(ids))
    for first in range(0, len(ids) - length + 1, length):
        window = ids[first : first + length]
        logits = decoder.extend(decoder.begin(), [window[:-1].tolist()]).astype("float64")  # [length - 1, n_vocab]
        largest = logits.max(axis=-1)
        log_total = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
        nats += float((log_total - logits[np.arange(length - 1), window[1:]]).sum())
    return math.exp(nats / (len(ids) // length * (length - 1)))
