"""Batches, and training pieces out of token streams. A batch is a pure function of (seed, step): resuming is exact."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of tokens, and the places in them whose next token is learned.

    tokens: int32 [B, T]. positions: int32 [B, T], each counted from where its segment begins.
    segments: int32 [B, T]: a token sees the earlier ones of its own segment; 0 is padding.
    picks: int32 [K], places in the B·T tokens. targets: int32 [K], the token after each. weights: float32 [K], 1, or
    0 where K is filled up.
    """

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    picks: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    @property
    def size(self) -> int:
        """How many tokens there are, padding left out."""
        return int(np.count_nonzero(self.segments))


class Batches(Protocol):
    """A data set to train on."""

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """The batch of a step, of `batch_size` rows."""

    def windows(self, batch_size: int, most: int) -> Iterator[Batch]:
        """Up to `most` rows, spread over the data, in batches of at most `batch_size`: always the same."""


@dataclasses.dataclass(frozen=True)
class Pieces:
    """All runs of `length` tokens that lie within one stream.

    streams: int arrays [tokens]; those shorter than `length` give no piece.
    """

    streams: list[np.ndarray]
    length: int

    def positions(self) -> np.ndarray:
        """How many pieces begin in each stream."""
        return np.maximum([len(stream) - self.length + 1 for stream in self.streams], 0)

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Pieces drawn uniformly over all positions."""
        ends = np.cumsum(self.positions())
        draws = np.random.default_rng([seed, step]).integers(0, ends[-1], size=batch_size)
        chosen = np.searchsorted(ends, draws, side="right")
        # Counted from the back, a stream's last piece is at its end less `length`.
        starts = draws - ends[chosen] + self.positions()[chosen]
        rows = [self.streams[i][start : start + self.length] for i, start in zip(chosen, starts, strict=True)]
        return whole_rows(np.stack(rows))

    def windows(self, batch_size: int, most: int) -> Iterator[Batch]:
        """Pieces without overlap, evenly spread over the streams."""
        windows = [
            stream[start : start + self.length]
            for stream in self.streams
            for start in range(0, len(stream) - self.length + 1, self.length)
        ]
        chosen = [windows[i * len(windows) // most] for i in range(most)] if len(windows) > most else windows
        for start in range(0, len(chosen), batch_size):
            yield whole_rows(np.stack(chosen[start : start + batch_size]))


def whole_rows(tokens: np.ndarray) -> Batch:
    """Tokens [B, T], each row one segment that is learned whole: from every token the next."""
    rows, length = tokens.shape
    picks = (np.arange(rows)[:, None] * length + np.arange(length - 1)).ravel()
    return Batch(
        tokens=tokens.astype("int32"),
        positions=np.tile(np.arange(length, dtype="int32"), (rows, 1)),
        segments=np.ones(tokens.shape, "int32"),
        picks=picks.astype("int32"),
        targets=tokens[:, 1:].ravel().astype("int32"),
        weights=np.ones(len(picks), "float32"),
    )


def parts(batch: Batch, count: int) -> list[Batch]:
    """A batch's rows in up to `count` batches of as many rows as can be."""
    rows, width = batch.tokens.shape
    size = -(-rows // count)
    if size == rows:
        return [batch]
    found = []
    for start in range(0, rows, size):
        some = slice(start, start + size)
        here = (batch.picks >= start * width) & (batch.picks < (start + size) * width)
        picked = batch.picks[here] - np.int32(start * width), batch.targets[here], batch.weights[here]
        found.append(Batch(batch.tokens[some], batch.positions[some], batch.segments[some], *picked))
    return found


def split(streams: list[np.ndarray], fraction: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each stream's beginning for training and its last `fraction` for validation."""
    cuts = [len(stream) - round(len(stream) * fraction) for stream in streams]
    return (
        [stream[:cut] for stream, cut in zip(streams, cuts, strict=True)],
        [stream[cut:] for stream, cut in zip(streams, cuts, strict=True)],
    )
