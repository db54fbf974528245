"""Perplexity of a text, with a sliding window."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gpt_tf2.data.batches import Batch


def windows(streams: Sequence[np.ndarray], end_of_text: int, length: int, batch_size: int) -> Iterator[Batch]:
    """Rows of `length` tokens in which every token of every stream is predicted once.

    A window begins half a length after the one before and predicts what that did not, so that but for a stream's
    beginning a token is predicted from at least half a length. A stream's first is predicted from the end of text.
    """
    rows: list[tuple[np.ndarray, int]] = []  # the tokens and, of them, the first that is predicted
    for stream in streams:
        tokens = np.concatenate([[end_of_text], stream])
        predicted = 1
        for start in range(0, max(1, len(tokens) - 1), length // 2):
            row = tokens[start : start + length + 1]
            rows.append((row, predicted - start))
            predicted = start + len(row)
            if predicted == len(tokens):
                break
    for start in range(0, len(rows), batch_size):
        yield batched(rows[start : start + batch_size], length)


def batched(rows: list[tuple[np.ndarray, int]], length: int) -> Batch:
    tokens, positions, segments = (np.zeros((len(rows), length), "int32") for _ in range(3))
    picks, targets = [], []
    for number, (row, first) in enumerate(rows):
        size = len(row) - 1
        tokens[number, :size] = row[:-1]
        positions[number, :size] = np.arange(size)
        segments[number, :size] = 1
        picks.append(number * length + np.arange(first - 1, size))
        targets.append(row[first:])
    places = np.concatenate(picks).astype("int32")
    return Batch(
        tokens, positions, segments, places, np.concatenate(targets).astype("int32"), np.ones(len(places), "float32")
    )


def figures(nats: float, tokens: int, n_bytes: int) -> dict[str, float]:
    """Perplexity a token, and bits a byte, of a text of so many tokens and bytes.

    nats: its negative log-likelihood.
    """
    found = {"perplexity a token": math.exp(nats / tokens), "tokens": tokens, "bytes": n_bytes}
    return {"bits a byte": nats / math.log(2) / n_bytes, **found} if n_bytes else found
