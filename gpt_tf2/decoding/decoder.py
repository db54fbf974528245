"""The interface of a decoder: new tokens in, logits of the next token out, with a cache of keys and values."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

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


class Choice(NamedTuple):
    """How a token is chosen from its logits, by rules in this order. The defaults leave a rule out.

    temperature: divides the logits; 0 takes the likeliest token. top_k: how many tokens to keep. top_p: mass of the
    nucleus. min_p: least fraction of the likeliest token's probability.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@runtime_checkable
class DrawingDecoder(Decoder, Protocol):
    """A decoder that can also draw the tokens, and so run many steps in one call.

    Example:
        >>> decoder.draw(state, [[5], [6]], [Choice(top_p=0.8)] * 2, np.random.default_rng(0).random((2, 4)), end=0)
        array([[ 7,  3, 11,  2],
               [ 9,  9,  1,  4]])
    """

    def draw(
        self, state: State, last: Sequence[Sequence[int]], choices: Sequence[Choice], uniforms: np.ndarray, end: int
    ) -> np.ndarray:
        """Appends each sequence's last token, draws the next one, appends that, and so on. Changes the state.

        Args:
            last: for each sequence its last token, which is not in the state yet, or none to leave it as it is.
            choices: how tokens are chosen, for each of the N sequences that go on.
            uniforms: float64 [N, S], a number in [0, 1) for each of their draws, in S steps. The context must have room
                for as many more tokens.
            end: the steps end when this id is drawn.

        Returns:
            The ids drawn, int64 [N, up to S]. The last ones are not in the state.
        """


def warm_up(decoder: Decoder) -> None:
    """Runs a step in each way, since what is compiled at first use takes seconds, once on a machine."""
    decoder.extend(decoder.begin(), [[0]])
    if isinstance(decoder, DrawingDecoder):
        decoder.draw(decoder.begin(), [[0]], [Choice()], np.zeros((1, 1)), -1)


def compute_drawable(decoder: Decoder, state: State, new: Sequence[Sequence[int]], wanted: Sequence[int]) -> np.ndarray:
    """The logits of `Decoder.extend`, -inf for the ids without a token."""
    logits = decoder.extend(state, new, wanted)
    if len(decoder.undrawn):
        logits = logits.copy()
        logits[:, decoder.undrawn] = -np.inf
    return logits
