"""What every decoder does: tokens in, logits of what follows out, with the keys and values of what has been."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpt_tf2.config import GPT2Config


@dataclasses.dataclass(eq=False)
class State:
    """Rows in the midst of decoding.

    lengths: int32 [B], how many tokens of each row are cached. Lowering one forgets the row's last tokens.
    cache: the decoder's arrays of their keys and values.
    """

    lengths: np.ndarray
    cache: list[Any]


class Decoder(Protocol):
    """An engine. A state belongs to the decoder that made it."""

    config: GPT2Config
    name: str  # for people: on what it runs

    def begin(self) -> State:
        """One row without a token."""

    def extend(self, state: State, rows: Sequence[Sequence[int]], last: bool = False) -> np.ndarray:
        """Appends to each row of a state its tokens, at least one.

        Returns:
            Float32 logits of what follows each of the tokens, row after row, [N, n_vocab]; with `last` of what follows
            the last one of each row, [B, n_vocab].
        """

    def take(self, sources: Sequence[tuple[State, int]]) -> State:
        """A new state of rows of others, each named by its state and number: forks, drops, reorders and joins rows."""

    def put(self, state: State, row: int, source: State) -> None:
        """Puts the only row of another state in the place of a row."""
