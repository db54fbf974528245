"""Training batches of examples of different lengths: several share a sequence without seeing each other."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from gpt_tf2.data.batches import Batch
from gpt_tf2.data.encoding import COMPLETION, PROMPT
from gpt_tf2.data.prepared import Tokens

POOL = 4096  # examples that are packed together

Segment = list[int]  # the spans of one example: the passage, then a prompt and a completion for each turn that fits
Packed = list[Segment]  # a packed sequence


class PackedExamples:
    """Packed sequences of at most `length` tokens, each of whole examples. No example repeats before all have come.

    A batch is as wide as its longest sequence, and sequences of similar lengths share a batch, so that almost nothing
    is padding. If a turn has several completions, one is drawn each time. A conversation is cut after the last turn
    that fits. The passage of an example whose first turn does not fit is shortened at its end, as `build_prompt` does.

    Args:
        tokens: the prepared examples.
        examples: int [N], which of them to use; those that do not fit are skipped.
        length: the maximum length of a sequence, in tokens.
        completion_only: learn only the completions, each with the token that ends it.
        end_of_text: the id that ends every example.
        multiple: round the width of a batch, and its number of learned tokens, up to a multiple of this. Use it where
            every new shape costs a compilation.
        shortens: whether passages may be shortened. If not, an example whose first turn does not fit is skipped.

    Example:
        >>> data = PackedExamples(tokens, np.arange(len(tokens.shortest)), 1024, True, 50256)  # doctest: +SKIP
        >>> data.batch(seed=0, step=0, batch_size=4).tokens.shape  # doctest: +SKIP
        (4, 1021)
    """

    def __init__(
        self,
        tokens: Tokens,
        examples: np.ndarray,
        length: int,
        completion_only: bool,
        end_of_text: int,
        multiple: int = 1,
        shortens: bool = True,
    ):
        self.tokens = tokens
        self.examples = examples[tokens.least(shortens)[examples] <= length]
        self.length, self.multiple = length, multiple
        self.completion_only, self.end_of_text = completion_only, end_of_text
        # A pool is always packed the same way. The last one is kept; of the others only the number of batches.
        self._batches = functools.lru_cache(maxsize=1)(self._pack_pool)
        self._count = functools.cache(lambda *pool: len(self._batches(*pool)))
        self._order = functools.lru_cache(maxsize=1)(self._shuffle)

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Return the batch of a step. The last batch of a pool may have empty sequences."""
        pool = 0
        while step >= (count := self._count(seed, pool, batch_size)):
            step, pool = step - count, pool + 1
        return self._render(self._batches(seed, pool, batch_size)[step], batch_size)

    def windows(self, batch_size: int, most: int) -> Iterator[Batch]:
        """Yield up to `most` examples, evenly spread over the data and packed."""
        count = min(most, len(self.examples))
        chosen = self.examples[np.arange(count) * len(self.examples) // count]
        draw = np.random.default_rng(0)
        sequences = self._pack([self._draw_segment(example, draw) for example in chosen])
        for start in range(0, len(sequences), batch_size):
            batch = sequences[start : start + batch_size]
            yield self._render(batch, len(batch))

    def _shuffle(self, seed: int, epoch: int) -> np.ndarray:
        """The order of the examples in one pass over them."""
        return np.random.default_rng([seed, epoch, 0]).permutation(self.examples)

    def _pack_pool(self, seed: int, pool: int, batch_size: int) -> list[list[Packed]]:
        """Pack the examples of a pool into batches. The pools go through the examples pass after pass."""
        size = max(POOL, 64 * batch_size)
        draw = np.random.default_rng([seed, pool, 1])
        indices = (divmod(index, len(self.examples)) for index in range(pool * size, (pool + 1) * size))
        sequences = self._pack([self._draw_segment(self._order(seed, epoch)[i], draw) for epoch, i in indices])
        sequences.sort(key=self._width)
        batches = [sequences[start : start + batch_size] for start in range(0, len(sequences), batch_size)]
        draw.shuffle(batches)
        return batches

    def _draw_segment(self, example: int, draw: np.random.Generator) -> Segment:
        """Choose the spans of an example: as many turns as fit, with one completion each."""
        first, last = self.tokens.first_spans[example], self.tokens.first_spans[example + 1]
        kinds = self.tokens.kinds[first:last].tolist()
        lengths = np.diff(self.tokens.ends[first:last], prepend=self.tokens.ends[first - 1] if first else 0).tolist()
        used, room = [0], self.length - lengths[0] - 1
        # What the first turn may take of the passage.
        spare = lengths[0] if self.tokens.shortest[example] > self.length else 0
        prompts = [i for i, kind in enumerate(kinds) if kind == PROMPT]
        for prompt, end in zip(prompts, [*prompts[1:], len(kinds)], strict=True):
            room -= lengths[prompt]
            fitting = [i for i in range(prompt + 1, end) if lengths[i] <= room + spare]
            if not fitting:
                break
            completion = fitting[int(draw.integers(len(fitting)))] if len(fitting) > 1 else fitting[0]
            room -= lengths[completion]
            used += [prompt, completion]
            spare = 0
        return [int(first) + i for i in used]

    def _pack(self, segments: Sequence[Segment]) -> list[Packed]:
        """Pack by best-fit decreasing: the longest segment first, each into the fullest sequence with room for it."""
        lengths = [self._length(segment) for segment in segments]
        by_room: list[list[Packed]] = [[] for _ in range(self.length + 1)]  # room in tokens → sequences
        rooms = 0  # bit n is set if a sequence has room for n tokens
        for i in sorted(range(len(segments)), key=lambda i: -lengths[i]):
            wide_enough = rooms >> lengths[i]
            room = lengths[i] + (wide_enough & -wide_enough).bit_length() - 1 if wide_enough else self.length
            sequence = by_room[room].pop() if wide_enough else []
            if wide_enough and not by_room[room]:
                rooms ^= 1 << room
            sequence.append(segments[i])
            room -= lengths[i]
            by_room[room].append(sequence)
            rooms |= 1 << room
        return [sequence for sequences in by_room for sequence in sequences]

    def _length(self, segment: Segment) -> int:
        """The number of tokens, with the end of text, after the passage is shortened."""
        ends = self.tokens.ends
        return min(sum(int(ends[i] - (ends[i - 1] if i else 0)) for i in segment) + 1, self.length)

    def _width(self, sequence: Packed) -> int:
        return sum(self._length(segment) for segment in sequence)

    def _render(self, sequences: list[Packed], batch_size: int) -> Batch:
        """Lay out packed sequences as arrays, padded to a common width."""
        width = self._round_up(max(self._width(sequence) for sequence in sequences), self.length)
        tokens, positions, segments = (np.zeros((batch_size, width), "int32") for _ in range(3))
        learned: list[np.ndarray] = []
        for row, sequence in enumerate(sequences):
            start = 0
            for number, segment in enumerate(sequence, start=1):
                ids, learned_here = self._segment_ids(segment)
                own = slice(start, start + len(ids))
                tokens[row, own] = ids
                positions[row, own] = np.arange(len(ids))
                segments[row, own] = number
                learned.append(row * width + start + learned_here)
                start += len(ids)
        picks = np.concatenate(learned)
        padding = self._round_up(len(picks), batch_size * width) - len(picks)
        return Batch(
            tokens,
            positions,
            segments,
            picks=np.pad(picks, (0, padding)).astype("int32"),
            targets=np.pad(tokens.ravel()[picks + 1], (0, padding)),
            weights=np.pad(np.ones(len(picks), "float32"), (0, padding)),
        )

    def _round_up(self, size: int, most: int) -> int:
        return min(-(-size // self.multiple) * self.multiple, most)

    def _segment_ids(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a segment with the end of text, and the positions whose next token is learned."""
        spans = [self.tokens.span(i).astype("int32") for i in segment]
        excess = max(0, sum(map(len, spans)) + 1 - self.length)
        spans[0] = spans[0][: len(spans[0]) - excess]
        ids = np.concatenate([*spans, [self.end_of_text]])
        if not self.completion_only:
            return ids, np.arange(len(ids) - 1)
        completion = np.repeat(self.tokens.kinds[segment] == COMPLETION, [len(span) for span in spans])
        # A completion's tokens are learned, and the one that ends it: the next prompt's first, or the end of text.
        learned = np.append(completion, False)
        learned[1:] |= completion
        return ids, np.flatnonzero(learned[1:])
