"""The perplexity of a short sample, to compare a quantized model with the exact one."""

import math

import numpy as np

from gpt_tf2.decoding.decoder import Decoder


def sample_perplexity(decoder: Decoder, ids: np.ndarray) -> float:
    """The perplexity of tokens [N] under a decoder, in windows of its context that do not overlap."""
    nats, length = 0.0, min(decoder.config.n_ctx, len(ids))
    for first in range(0, len(ids) - length + 1, length):
        window = ids[first : first + length]
        logits = decoder.extend(decoder.begin(), [window[:-1].tolist()]).astype("float64")
        top = logits.max(axis=-1)
        total = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
        nats += float((total - logits[np.arange(length - 1), window[1:]]).sum())
    return math.exp(nats / (len(ids) // length * (length - 1)))
