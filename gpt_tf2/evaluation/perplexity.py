"""Perplexity of a text, by a sliding window."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import SupportsFloat

import numpy as np

from gpt_tf2.backend.workers import Workers
from gpt_tf2.data.batches import Batch
from gpt_tf2.evaluation.shared_journal import SharedJournal
from gpt_tf2.tokenizer import Tokenizer


def measure_perplexity(
    streams: Sequence[np.ndarray],
    tokenizer: Tokenizer,
    n_ctx: int,
    batch_size: int,
    losses: Sequence[Callable[[Batch], SupportsFloat]],
    workers: Workers,
    journal: SharedJournal,
    show: Callable[[int, int | None], None],
) -> dict[str, float]:
    """Perplexity per token and bits per byte of a text, with its tokens and bytes.

    Args:
        streams: the text's token ids, int [N] for each part that is encoded apart.
        n_ctx: the length of a window, in tokens.
        batch_size: windows per batch.
        losses: one for each of the workers' devices; returns the sum of a batch's weighted losses, in nats.
        journal: keeps each batch's loss. Batches that it has are not computed again.
        show: called with the number of batches so far, and in all, without those that other processes compute.
    """
    batches = list(make_windows(streams, tokenizer.end_of_text, n_ctx, batch_size))
    missing = [number for number in range(len(batches)) if journal.get(str(number)) is None]
    share, done = workers.share(missing), len(batches) - len(missing)

    def measure(loss: Callable[[Batch], SupportsFloat], numbers: Iterator[int]) -> Iterator[tuple[int, float]]:
        for number in numbers:
            yield number, float(loss(batches[number]))

    functions = [functools.partial(measure, loss) for loss in losses]
    for count, (number, nats_of_batch) in enumerate(workers.run(functions, share), start=1):
        journal.put(str(number), nats_of_batch)
        show(done + count, done + len(share))
    journal.gather()
    nats = sum(journal.results[str(number)] for number in range(len(batches)))
    n_tokens = sum(len(stream) for stream in streams)
    n_bytes = sum(tokenizer.count_bytes(stream) for stream in streams)
    figures = {"perplexity per token": math.exp(nats / n_tokens), "tokens": n_tokens, "bytes": n_bytes}
    return {"bits per byte": nats / math.log(2) / n_bytes, **figures} if n_bytes else figures


def make_windows(streams: Sequence[np.ndarray], end_of_text: int, length: int, batch_size: int) -> Iterator[Batch]:
    """Yields batches of windows that predict every token of every stream once.

    Each window begins half a length after the previous one and predicts only the tokens that are new. So each token
    has at least half a length of context, except at the beginning of a stream. The end-of-text token precedes the
    first token of a stream.
    """
    windows = [
        window for stream in streams for window in cut_windows(np.concatenate([[end_of_text], stream]), 1, length)
    ]
    for first in range(0, len(windows), batch_size):
        yield make_batch(windows[first : first + batch_size], length)


def cut_windows(tokens: np.ndarray, first: int, length: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields windows of up to length + 1 tokens, each with the index in it of the first token that it predicts.

    first: the first token to predict, 1 or more; all after it are predicted, too.
    """
    predicted = first  # tokens up to here
    for start in range(0, len(tokens) - 1, length // 2):
        window = tokens[start : start + length + 1]
        if start + len(window) > predicted:
            yield window, predicted - start
            predicted = start + len(window)
        if predicted == len(tokens):
            break


def make_batch(windows: list[tuple[np.ndarray, int]], length: int) -> Batch:
    """A batch of windows, each padded to `length` tokens."""
    tokens, positions, segments = (np.zeros((len(windows), length), "int32") for _ in range(3))
    picks, targets = [], []
    for row, (window, first) in enumerate(windows):
        size = len(window) - 1
        tokens[row, :size] = window[:-1]
        positions[row, :size] = np.arange(size)
        segments[row, :size] = 1
        picks.append(row * length + np.arange(first - 1, size))
        targets.append(window[first:])
    all_picks = np.concatenate(picks).astype("int32")
    weights = np.ones(len(all_picks), "float32")
    return Batch(tokens, positions, segments, all_picks, np.concatenate(targets).astype("int32"), weights)
