"""Perplexity of a sample of text: what a conversion to int8 costs is measured on one."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.reference import PART, Reference


def cut_windows(ids: np.ndarray, n_ctx: int) -> np.ndarray:
    """Splits a sample [N] into windows of a context, without overlap: [B, T]. Tokens after the last are left out."""
    length = min(n_ctx, len(ids))
    return ids[: len(ids) // length * length].reshape(-1, length)


def decode_windows(decoder: Decoder, windows: np.ndarray) -> Iterator[np.ndarray]:
    """The logits [N, n_vocab] after each token of each window [B, T] but its last, some at a time."""
    for window in windows:
        state = decoder.begin()
        for first in range(0, len(window) - 1, PART):
            yield decoder.extend(state, [window[first : first + PART][: len(window) - 1 - first].tolist()])


def stream_windows(config: GPT2Config, read: Callable[[str], np.ndarray], windows: np.ndarray) -> Iterator[np.ndarray]:
    """The same in float32, of a model whose tensors are read by their names: the memory holds one at a time."""
    reference = Reference(config, read)
    for window in windows:
        yield from reference.extend(reference.begin(), window[:-1])


def measure_perplexity(logits: Iterable[np.ndarray], windows: np.ndarray) -> float:
    """The perplexity per token of windows, whose first tokens are not predicted.

    Args:
        logits: float32 [N, n_vocab] after each token of each window but its last, some at a time.
        windows: int [B, T], T at least 2.
    """
    nats = 0.0
    rows = (row.astype("float64") for piece in logits for row in piece)  # one by one: the vocabulary is large
    for row, expected in zip(rows, windows[:, 1:].flat, strict=True):
        largest = row.max()
        nats += largest + math.log(np.exp(row - largest).sum()) - row[expected]
    return math.exp(nats / windows[:, 1:].size)
