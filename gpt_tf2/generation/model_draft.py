"""Draft tokens of a faster model: speculative decoding (Leviathan et al. 2023, section 2)."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt_tf2.decoding.decoder import Choice, Decoder, DrawingDecoder, compute_drawable
from gpt_tf2.generation.prefixes import count_shared
from gpt_tf2.generation.sampling import Sampler, peek_numbers

# Measured with 124M on two cores, which drafts in int8 and verifies in float32.
COST = 0.36  # of drafting and verifying a token, in plain steps; it grows with the root of the number of sequences
LEAST_GAIN = 1.05  # of the tokens for the cost
MOST = 8  # draft tokens of a sequence in a step
WORTH = 8  # tokens of a prompt that may run for each token that a sequence alone may get
WINDOW = 32  # draft tokens that count for the rate
LONGEST_PAUSE = 64  # steps


class Pace:
    """How many tokens to draft in a step, by the rate at which draft tokens were right.

    The k-th token of a draft is right with the rate to the power of k. So a step's tokens are known for each count, and
    the count with the most tokens for the cost is chosen. If that is none, a trial with one sequence comes now and
    then, after pauses that double each time.

    Example:
        >>> pace = Pace()
        >>> pace.learn(right=9, tried=10)
        >>> pace.choose(sequences=1), pace.choose(sequences=4)
        ((3, 1), (1, 4))
    """

    def __init__(self) -> None:
        self._right, self._tried = 3.0, 4.0  # as if so many were known
        self._wait, self._pause = 0, 1

    def learn(self, right: int, tried: int) -> None:
        """Counts draft tokens that were compared with real ones."""
        weight = min(1, WINDOW / (self._tried + tried))
        self._right, self._tried = weight * (self._right + right), weight * (self._tried + tried)

    def choose(self, sequences: int) -> tuple[int, int]:
        """How many tokens to draft, each after how many of some sequences. Call it once a step."""
        cost = COST * math.sqrt(sequences)
        rate = self._right / self._tried
        gains = [sum(rate**i for i in range(count + 1)) / (1 + cost * count) for count in range(MOST + 1)]
        if max(gains) >= LEAST_GAIN:
            self._wait, self._pause = 0, 1
            return gains.index(max(gains)), sequences
        if cost >= 1:
            return 0, 0
        if self._wait:
            self._wait -= 1
            return 0, 0
        self._wait, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return 1, 1


class Draftable(NamedTuple):
    """A sequence that may be drafted on.

    ids: its tokens, a list that grows with it. left: how many more it may get.
    sampler, generator: what the next token is chosen with. The generator stays as it is.
    """

    ids: list[int]
    left: int
    sampler: Sampler
    generator: np.random.Generator

    @property
    def choice(self) -> Choice | None:
        """The sampler's rules, if a decoder can follow them by itself, even if the sampler records what it chooses."""
        return Sampler(self.sampler.rules, self.sampler.greedy).as_choice()


class ModelDrafter:
    """Drafts tokens for the sequences of a scheduler, all at once.

    Its state has the sequences of the scheduler's, with the same tokens or fewer of them.

    Args:
        decoder: computes the logits.
        end: the id that ends a completion; it is never a draft token.
    """

    def __init__(self, decoder: Decoder, end: int):
        self._decoder, self._end = decoder, end
        self._drawing = decoder if isinstance(decoder, DrawingDecoder) else None
        self._state = decoder.begin()
        self.begin()

    def begin(self) -> None:
        """Forgets how often it was right with earlier sequences."""
        self._pace = Pace()
        self._last: list[tuple[list[int], int, list[int]]] = []  # the ids, how many there were, the draft after them

    def take(self, prefixes: Sequence[tuple[int, int]]) -> None:
        """Does with its state what the scheduler's decoder does with its own, and so forgets what was not accepted."""
        lengths = self._state.lengths
        self._state = self._decoder.take(self._state, [(i, min(count, int(lengths[i]))) for i, count in prefixes])

    def propose(self, sequences: Sequence[Draftable | None]) -> list[list[int]]:
        """Draft tokens for each sequence of the state, none for None.

        Each is the token that would be drawn if the logits were the decoder's own: by the same rules, with the number
        that its draw will take from the generator. A sequence whose prompt is new runs a part of it first.
        """
        self._learn()
        asked = {i: sequence for i, sequence in enumerate(sequences) if sequence}
        count, chosen = self._pace.choose(len(asked)) if asked else (0, 0)
        by_missing = sorted(asked, key=lambda i: len(asked[i].ids) - self._state.lengths[i])
        counts = {i: min(count, asked[i].left - 1) for i in sorted(by_missing[:chosen])}
        new = self._find_missing({i: asked[i] for i, count in counts.items() if count > 0}, len(asked))
        drawing = [i for i, ids in new.items() if self._state.lengths[i] + len(ids) == len(asked[i].ids)]
        generators = {i: copy.deepcopy(asked[i].generator) for i in drawing}
        rules = {i: asked[i].choice for i in drawing}
        drafts: list[list[int]] = [[] for _ in sequences]
        while any(new.values()):
            parts, wanted = zip(*((new.get(i, []), int(i in drawing)) for i in range(len(sequences))), strict=True)
            choices = [choice for i in drawing if len(new[i]) == 1 and (choice := rules[i])]
            if self._drawing and len(choices) == len(new):
                steps = min(counts[i] - len(drafts[i]) for i in new)
                numbers = np.array([peek_numbers(generators[i], steps) for i in new])
                drawn = self._drawing.draw(self._state, parts, choices, numbers, self._end).tolist()
                for i, ids in zip(drawing, drawn, strict=True):
                    generators[i].random(len(ids))
            else:
                logits = compute_drawable(self._decoder, self._state, parts, wanted)
                drawn = [  # by the class's own function, as others show what they choose
                    [Sampler.choose(asked[i].sampler, of_next, [*asked[i].ids, *drafts[i]], generators[i])]
                    for i, of_next in zip(drawing, logits, strict=True)
                ]
            new = {}
            for i, ids in zip(drawing, drawn, strict=True):
                drafts[i] += ids[: ids.index(self._end)] if self._end in ids else ids
                if self._end not in ids and len(drafts[i]) < counts[i]:
                    new[i] = ids[-1:]
            drawing = list(new)
        self._last = [(each.ids, len(each.ids), drafts[i]) for i, each in asked.items()]
        return drafts

    def _learn(self) -> None:
        """Compares the last drafts with the tokens that followed."""
        right = tried = 0
        for ids, count, draft in self._last:
            followed = ids[count : count + len(draft)]
            shared = count_shared(draft, followed)
            right, tried = right + shared, tried + min(shared + 1, len(followed))
        self._pace.learn(right, tried)

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
