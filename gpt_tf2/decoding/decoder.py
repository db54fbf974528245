"""The interface of a decoder: new tokens in, logits of the next token out, with a cache of keys and values."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpt_tf2.config import GPT2Config

NO_IDS = np.zeros(0, "int32")


@dataclasses.dataclass(eq=False)
class State:
    """The sequences that a decoder is working on.

    lengths: int [B], how many positions of each sequence are cached. Lowering one forgets the sequence's last tokens.
    cache: arrays of the keys and values at these positions, laid out as the decoder likes.
    """

    lengths: np.ndarray
    cache: list[Any]


class Decoder(Protocol):
    """Runs a model on sequences of different lengths. A state belongs to the decoder that began it.

    Example:
        >>> state = decoder.begin()
        >>> logits = decoder.extend(state, [[5, 6, 7]])  # [3, n_vocab]
        >>> state = decoder.take(state, [(0, 3), (0, 2)])  # two sequences: 5 6 7 and 5 6
        >>> logits = decoder.extend(state, [[8], [9, 10]], wanted=[1, 1])  # [2, n_vocab], after 8 and after 10
    """

    config: GPT2Config
    name: str  # device and precision, to show
    precision: str  # of the matrices: float32, bfloat16 or int8
    loops_on_device: bool  # whether its model can run many steps in one call of the device
    undrawn: np.ndarray  # int32, the ids without a token, sorted: their logits are computed, but none is ever drawn
    prefill_chunk: int  # how many tokens of prompts to run in one step, beside the last tokens of other sequences
    drafter: "Decoder | None"  # the same model, faster and less exact, to draft tokens which this one verifies

    def begin(self) -> State:
        """A state of one sequence without tokens."""

    def extend(self, state: State, new: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> np.ndarray:
        """Appends new tokens to the sequences of a state, which is changed.

        Args:
            new: token ids for each sequence, possibly none.
            wanted: for each sequence, after how many of its last new tokens to compute logits; by default after all.

        Returns:
            Float32 logits [N, n_vocab] of the token after each of these, sequence by sequence.
        """

    def take(self, state: State, prefixes: Sequence[tuple[int, int]]) -> State:
        """A state of prefixes of a state's sequences: forks, drops, reorders and shortens them.

        The old state must not be used again: its memory may be reused.

        Args:
            prefixes: for each new sequence, the index of an old one, and how many of its first tokens to take.
        """


def compute_drawable(decoder: Decoder, state: State, new: Sequence[Sequence[int]], wanted: Sequence[int]) -> np.ndarray:
    """The logits of `Decoder.extend`, -inf for the ids without a token."""
    logits = decoder.extend(state, new, wanted)
    if len(decoder.undrawn):
        logits = logits.copy()
        logits[:, decoder.undrawn] = -np.inf
    return logits
