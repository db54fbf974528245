"""Training pieces out of token streams. A batch is a pure function of (seed, step): resuming at any step is exact."""

import dataclasses
from collections.abc import Iterator

import numpy as np


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

    def batch(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """Token ids [batch_size, length], int32, drawn uniformly over all positions."""
        ends = np.cumsum(self.positions())
        draws = np.random.default_rng([seed, step]).integers(0, ends[-1], size=batch_size)
        chosen = np.searchsorted(ends, draws, side="right")
        # Counted from the back, a stream's last piece is at its end less `length`.
        starts = draws - ends[chosen] + self.positions()[chosen]
        rows = [self.streams[i][start : start + self.length] for i, start in zip(chosen, starts, strict=True)]
        return np.stack(rows).astype("int32")

    def windows(self, batch_size: int, most: int) -> Iterator[np.ndarray]:
        """Up to `most` pieces without overlap, evenly spread over the streams, in batches [≤ batch_size, length]."""
        windows = [
            stream[start : start + self.length]
            for stream in self.streams
            for start in range(0, len(stream) - self.length + 1, self.length)
        ]
        chosen = [windows[i * len(windows) // most] for i in range(most)] if len(windows) > most else windows
        for start in range(0, len(chosen), batch_size):
            yield np.stack(chosen[start : start + batch_size]).astype("int32")


def split(streams: list[np.ndarray], fraction: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each stream's beginning for training and its last `fraction` for validation."""
    cuts = [len(stream) - round(len(stream) * fraction) for stream in streams]
    return (
        [stream[:cut] for stream, cut in zip(streams, cuts, strict=True)],
        [stream[cut:] for stream, cut in zip(streams, cuts, strict=True)],
    )
