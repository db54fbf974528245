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
    prefill_chunk: int  # tokens of prompts that are best run at a time along with the last tokens of other rows

    def begin(self) -> State:
        """One row without a token."""

    def extend(self, state: State, rows: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> np.ndarray:
        """Appends to each row of a state its tokens; a row may get none.

        Args:
            wanted: after how many of its last tokens the logits of each row are wanted; by default, after all.

        Returns:
            Float32 logits of what follows each of these tokens, row after row, [N, n_vocab].
        """

    def take(self, state: State, places: Sequence[tuple[int, int]]) -> State:
        """The first tokens of rows of a state, which is not used again: forks, drops, reorders and shortens rows.

        Args:
            places: which row each of the new ones begins as, and how many tokens of it.
        """
