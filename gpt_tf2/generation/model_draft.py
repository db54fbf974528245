"""Draft tokens of a faster model: speculative decoding (Leviathan et al. 2023, section 2)."""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt_tf2.decoding.decoder import Decoder, compute_drawable
from gpt_tf2.generation.sampling import Sampler

# Measured with 124M on two cores, which drafts in int8 and verifies in float32.
MOST = 6  # draft tokens of a sequence in a step
ROWS = 32  # tokens that a step verifies: more take as long as they save
WORTH = 16  # tokens of a prompt that may run for each token that a sequence alone may get
LONGEST_PAUSE = 64  # steps


class Pace:
    """How many tokens to draft for a sequence: one more after a draft that is right, one fewer after another.

    Where not even single tokens are right, it pauses, twice as long each time.

    Example:
        >>> pace = Pace()
        >>> pace.remember([5, 6], [7, 8])
        >>> pace.choose_count([5, 6, 7, 8, 9])
        3
    """

    def __init__(self) -> None:
        self._count, self._wait, self._pause = 2, 0, 1
        self._begin = 0
        self._draft: list[int] = []

    def remember(self, ids: Sequence[int], draft: list[int]) -> None:
        """Takes note of the draft after `ids`."""
        self._begin, self._draft = len(ids), draft

    def choose_count(self, ids: Sequence[int]) -> int:
        """How many tokens to draft after `ids`, by what followed instead of the last draft. Call it in each step."""
        if self._draft:
            self._learn(is_right=ids[self._begin : self._begin + len(self._draft)] == self._draft)
            self._draft = []
        if self._wait:
            self._wait -= 1
            return 0
        return self._count

    def _learn(self, is_right: bool) -> None:
        if is_right:
            self._count, self._pause = min(self._count + 1, MOST), 1
        elif self._count > 1:
            self._count -= 1
        else:
            self._wait, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)


class Draftable(NamedTuple):
    """A sequence that may be drafted on.

    ids: its tokens. left: how many more it may get.
    sampler, generator: what the next token is chosen with. The generator stays as it is.
    """

    ids: list[int]
    left: int
    sampler: Sampler
    generator: np.random.Generator
    pace: Pace


class ModelDrafter:
    """Drafts tokens for the sequences of a scheduler, all at once.

    Its state has the sequences of the scheduler's, with the same tokens or fewer of them.

    Args:
        decoder: computes the logits.
        end: the id that ends a completion; it is never a draft token.
    """

    def __init__(self, decoder: Decoder, end: int):
        self._decoder, self._end = decoder, end
        self._state = decoder.begin()

    def take(self, prefixes: Sequence[tuple[int, int]]) -> None:
        """Does with its state what the scheduler's decoder does with its own, and so forgets what was not accepted."""
        lengths = self._state.lengths
        self._state = self._decoder.take(self._state, [(i, min(count, int(lengths[i]))) for i, count in prefixes])

    def propose(self, sequences: Sequence[Draftable | None]) -> list[list[int]]:
        """Draft tokens for each sequence of the state, none for None.

        Each is the token that would be drawn if the logits were the decoder's own: by the same rules, with the number
        that its draw will take from the generator. A sequence whose prompt is new runs a part of it first.
        """
        asked = {i: sequence for i, sequence in enumerate(sequences) if sequence}
        most = ROWS // max(1, len(asked)) - 1  # for each, beside the token before them
        counts = {i: min(each.pace.choose_count(each.ids), most, each.left - 1) for i, each in asked.items()}
        new = self._find_missing({i: asked[i] for i, count in counts.items() if count > 0}, len(asked))
        drawing = [i for i, ids in new.items() if self._state.lengths[i] + len(ids) == len(asked[i].ids)]
        generators = {i: copy.deepcopy(asked[i].generator) for i in drawing}
        drafts: list[list[int]] = [[] for _ in sequences]
        while any(new.values()):
            parts, wanted = zip(*((new.get(i, []), int(i in drawing)) for i in range(len(sequences))), strict=True)
            logits = compute_drawable(self._decoder, self._state, parts, wanted)
            new = {}
            for i, of_next in zip(drawing, logits, strict=True):
                # The class's own, as others show what they choose.
                id = Sampler.choose(asked[i].sampler, of_next, [*asked[i].ids, *drafts[i]], generators[i])
                if id != self._end:
                    drafts[i].append(id)
                    if len(drafts[i]) < counts[i]:
                        new[i] = [id]
            drawing = list(new)
        for i, each in asked.items():
            each.pace.remember(each.ids, drafts[i])
        return drafts

    def _find_missing(self, chosen: Mapping[int, Draftable], sharing: int) -> dict[int, list[int]]:
        """The tokens that sequences must run before they are drafted on, or some of them where they are many.

        Where they cost more than the drafts may gain, there are none.

        sharing: how many sequences share what a step gains.
        """
        room = self._decoder.prefill_chunk
        parts = {}
        for i, each in chosen.items():
            missing = each.ids[self._state.lengths[i] :]
            if len(missing) * sharing <= WORTH * each.left:
                parts[i] = missing[:room]
                room -= len(parts[i])
        return parts
