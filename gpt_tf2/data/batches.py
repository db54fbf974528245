"""Training batches, and windows drawn from streams of tokens.

A batch is a pure function of the seed and the step, so that a run resumes exactly.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences of tokens, and the positions in them whose next token is learned.

    tokens: int32 [B, T].
    positions: int32 [B, T], counted from the start of the segment.
    segments: int32 [B, T], from 1 in each sequence; 0 is padding. A token sees only the earlier ones of its segment.
    picks: int32 [K], indices into the B·T tokens: the next token is learned there.
    targets: int32 [K], those next tokens.
    weights: float32 [K], 1, or 0 where K is padded.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    picks: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    @property
    def size(self) -> int:
        """The number of tokens, without padding."""
        return int(np.count_nonzero(self.segments))

    @property
    def total(self) -> float:
        """What the sum of the losses is divided by for their mean."""
        return float(self.weights.sum())


@dataclasses.dataclass(frozen=True)
class PairBatch(Batch):
    """Pairs of completions of a prompt, the first of which is preferred (Rafailov et al. 2023).

    Sequences come in twos: a pair's chosen segment is in an even one, counted from 0, and its rejected segment has the
    same number in the sequence after that.

    weights: float32 [K], the paper's β, or 0 where K is padded.
    reference: float32 [K], the reference model's log-probability of a segment's learned tokens, at the first of them;
        elsewhere 0.
    """

    reference: np.ndarray

    @property
    def total(self) -> float:
        """The number of pairs."""
        return float(self.segments[::2].max(axis=1, initial=0).sum())


class Batches(Protocol):
    """A data set to train on or to validate with."""

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return the training batch of a step, with `batch_size` sequences."""

    def windows(self, batch_size: int, most: int) -> Iterator[Batch]:
        """Yield up to `most` sequences spread over the data, always the same, in batches of at most `batch_size`."""


@dataclasses.dataclass(frozen=True)
class StreamWindows:
    """The windows of `length` tokens in streams. No window crosses from one stream to the next.

    streams: int arrays [tokens]; a stream shorter than `length` has no window.

    Example:
        >>> StreamWindows([np.arange(4)], length=4).batch(seed=0, step=0, batch_size=1).tokens
        array([[0, 1, 2, 3]], dtype=int32)
    """

    streams: list[np.ndarray]
    length: int

    def window_counts(self) -> np.ndarray:
        """Count the windows of each stream, one for every position where one can start; int [streams]."""
        return np.maximum([len(stream) - self.length + 1 for stream in self.streams], 0)

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Draw windows, each with the same probability."""
        counts = self.window_counts()
        ends = np.cumsum(counts)
        draws = np.random.default_rng([seed, step]).integers(0, ends[-1], size=batch_size)
        chosen = np.searchsorted(ends, draws, side="right")
        starts = draws - (ends - counts)[chosen]
        windows = [self.streams[i][start : start + self.length] for i, start in zip(chosen, starts, strict=True)]
        return whole_rows(np.stack(windows))

    def windows(self, batch_size: int, most: int) -> Iterator[Batch]:
        """Yield windows that do not overlap, evenly spread over the streams."""
        windows = [
            stream[start : start + self.length]
            for stream in self.streams
            for start in range(0, len(stream) - self.length + 1, self.length)
        ]
        chosen = [windows[i * len(windows) // most] for i in range(most)] if len(windows) > most else windows
        for start in range(0, len(chosen), batch_size):
            yield whole_rows(np.stack(chosen[start : start + batch_size]))


def whole_rows(tokens: np.ndarray) -> Batch:
    """Make a batch of tokens [B, T]: each sequence is one segment, and every next token in it is learned."""
    count, length = tokens.shape
    picks = (np.arange(count)[:, None] * length + np.arange(length - 1)).ravel()
    return Batch(
        tokens=tokens.astype("int32"),
        positions=np.tile(np.arange(length, dtype="int32"), (count, 1)),
        segments=np.ones(tokens.shape, "int32"),
        picks=picks.astype("int32"),
        targets=tokens[:, 1:].ravel().astype("int32"),
        weights=np.ones(len(picks), "float32"),
    )


def parts(batch: Batch, count: int) -> list[Batch]:
    """Split a batch into up to `count` batches with equal numbers of sequences; the last may have fewer."""
    sequences, width = batch.tokens.shape
    together = 2 if isinstance(batch, PairBatch) else 1
    size = together * -(-sequences // (together * count))
    if size == sequences:
        return [batch]
    split_batches = []
    for start in range(0, sequences, size):
        own = slice(start, start + size)
        picked = (batch.picks >= start * width) & (batch.picks < (start + size) * width)
        arrays = {name: array[own if array.ndim == 2 else picked] for name, array in vars(batch).items()}
        split_batches.append(type(batch)(**arrays | {"picks": arrays["picks"] - np.int32(start * width)}))
    return split_batches


def split(streams: list[np.ndarray], fraction: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split each stream into its beginning, for training, and its last `fraction`, which is held out for validation."""
    cuts = [len(stream) - round(len(stream) * fraction) for stream in streams]
    return (
        [stream[:cut] for stream, cut in zip(streams, cuts, strict=True)],
        [stream[cut:] for stream, cut in zip(streams, cuts, strict=True)],
    )
