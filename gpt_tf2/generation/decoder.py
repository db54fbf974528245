"""What every decoder does: tokens in, logits of what follows out, with the keys and values of what has been."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpt_tf2.config import GPT2Config

BUCKET = 64  # slots are added in multiples of it


@dataclasses.dataclass(eq=False)
class State:
    """Rows in the midst of decoding.

    lengths: int32 [B], how many tokens of each row are cached. Lowering one forgets the row's last tokens.
    cache: for each block keys, then values, [B, H, S, D]; the decoder may keep them elsewhere meanwhile.
    """

    lengths: np.ndarray
    cache: list[Any]


class Decoder(Protocol):
    """An engine. A state belongs to the decoder that made it."""

    config: GPT2Config
    name: str  # for people: on what it runs

    def begin(self) -> State:
        """One row without a token."""

    def extend(self, state: State, tokens: np.ndarray, last: bool = False) -> np.ndarray:
        """Appends tokens, int [B, T], to the rows of a state.

        Rows that get fewer are filled up at their end, and their lengths set right afterwards.

        Returns:
            Float32 logits of what follows each of the tokens, [B, T, n_vocab]; with `last` of what follows the last one
            alone, [B, 1, n_vocab].
        """

    def take(self, sources: Sequence[tuple[State, int]]) -> State:
        """A new state of rows of others, each named by its state and number: forks, drops, reorders and joins rows."""

    def put(self, state: State, row: int, source: State) -> None:
        """Puts the only row of another state in the place of a row."""


def slots_for(tokens: int) -> int:
    """How many slots a row of so many tokens gets."""
    return max(1, -(-int(tokens) // BUCKET)) * BUCKET
