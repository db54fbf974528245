"""Batches out of examples of different lengths: several share a row without seeing each other."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from gpt_tf2.data.batches import Batch
from gpt_tf2.data.prepared import COMPLETION, PROMPT, Tokens

POOL = 4096  # examples that are packed together

Segments = list[int]  # of one example: the passage, then a prompt and a completion for each turn that fits
Row = list[Segments]


class Packed:
    """Rows of at most `length` tokens, each of whole examples, all of which come once before any comes again.

    A row is as wide as its widest of the batch, and rows of like widths share a batch, so that next to nothing is
    padding. Of several completions one is drawn each time; of a conversation as many turns are used as fit.

    Args:
        examples: which of the tokens' examples to use; those of which not even the first turn fits are left out.
        length: the most tokens in a row.
        completion_only: whether the completions alone are learned, and after each the token that ends it.
        end_of_text: the id that ends an example.
        multiple: widths are rounded up to multiples of it, where every shape costs a compilation.
    """

    def __init__(
        self,
        tokens: Tokens,
        examples: np.ndarray,
        length: int,
        completion_only: bool,
        end_of_text: int,
        multiple: int = 1,
    ):
        self.tokens = tokens
        self.examples = examples[tokens.shortest[examples] <= length]
        self.length, self.multiple = length, multiple
        self.completion_only, self.end_of_text = completion_only, end_of_text
        # Pools are the same whenever they are made; the last is kept, and of the others how many batches they have.
        self._batches = functools.lru_cache(maxsize=1)(self._pool)
        self._count = functools.cache(lambda *pool: len(self._batches(*pool)))
        self._order = functools.lru_cache(maxsize=1)(self._shuffled)

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """The batch of a step; the last of a pool of examples may have empty rows."""
        pool = 0
        while step >= (count := self._count(seed, pool, batch_size)):
            step, pool = step - count, pool + 1
        return self._rendered(self._batches(seed, pool, batch_size)[step], batch_size)

    def windows(self, batch_size: int, most: int) -> Iterator[Batch]:
        """Examples evenly spread over the data, as many as fill `most` rows of one each, packed."""
        count = min(most, len(self.examples))
        chosen = self.examples[np.arange(count) * len(self.examples) // count]
        draw = np.random.default_rng(0)
        rows = self._packed([self._drawn(example, draw) for example in chosen])
        for start in range(0, len(rows), batch_size):
            yield self._rendered(rows[start : start + batch_size], len(rows[start : start + batch_size]))

    def _shuffled(self, seed: int, number: int) -> np.ndarray:
        """The order of the examples in a pass over them."""
        return np.random.default_rng([seed, number, 0]).permutation(self.examples)

    def _pool(self, seed: int, number: int, batch_size: int) -> list[list[Row]]:
        """The batches that the examples of a pool make up. Pools follow each other through pass after pass."""
        size = max(POOL, 64 * batch_size)
        draw = np.random.default_rng([seed, number, 1])
        places = (divmod(place, len(self.examples)) for place in range(number * size, (number + 1) * size))
        rows = self._packed([self._drawn(self._order(seed, turn)[place], draw) for turn, place in places])
        rows.sort(key=self._width)
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        draw.shuffle(batches)
        return batches

    def _drawn(self, example: int, draw: np.random.Generator) -> Segments:
        """The segments of an example that fit, one completion a turn."""
        first, last = self.tokens.firsts[example], self.tokens.firsts[example + 1]
        kinds = self.tokens.kinds[first:last].tolist()
        lengths = np.diff(self.tokens.ends[first:last], prepend=self.tokens.ends[first - 1] if first else 0).tolist()
        used, room = [0], self.length - lengths[0] - 1
        turns = [i for i, kind in enumerate(kinds) if kind == PROMPT]
        for prompt, end in zip(turns, [*turns[1:], len(kinds)], strict=True):
            room -= lengths[prompt]
            fitting = [i for i in range(prompt + 1, end) if lengths[i] <= room]
            if not fitting:
                break
            chosen = fitting[int(draw.integers(len(fitting)))] if len(fitting) > 1 else fitting[0]
            room -= lengths[chosen]
            used += [prompt, chosen]
        return [int(first) + i for i in used]

    def _packed(self, examples: Sequence[Segments]) -> list[Row]:
        """Best-fit decreasing: the longest first, each into the fullest row that has room for it."""
        lengths = [self._length(example) for example in examples]
        rows_of_room: list[list[Row]] = [[] for _ in range(self.length + 1)]
        rooms = 0  # bit n: there is a row with room for n tokens
        for i in sorted(range(len(examples)), key=lambda i: -lengths[i]):
            wide_enough = rooms >> lengths[i]
            room = lengths[i] + (wide_enough & -wide_enough).bit_length() - 1 if wide_enough else self.length
            row = rows_of_room[room].pop() if wide_enough else []
            if wide_enough and not rows_of_room[room]:
                rooms ^= 1 << room
            row.append(examples[i])
            room -= lengths[i]
            rows_of_room[room].append(row)
            rooms |= 1 << room
        return [row for rows in rows_of_room for row in rows]

    def _length(self, example: Segments) -> int:
        """With the end of text."""
        ends = self.tokens.ends
        return sum(int(ends[i] - (ends[i - 1] if i else 0)) for i in example) + 1

    def _width(self, row: Row) -> int:
        return sum(self._length(example) for example in row)

    def _rendered(self, rows: list[Row], batch_size: int) -> Batch:
        width = self._rounded(max(self._width(row) for row in rows), self.length)
        tokens, positions, segments = (np.zeros((batch_size, width), "int32") for _ in range(3))
        picks: list[np.ndarray] = []
        for number, row in enumerate(rows):
            start = 0
            for segment, example in enumerate(row, start=1):
                ids, learned = self._ids(example)
                here = slice(start, start + len(ids))
                tokens[number, here] = ids
                positions[number, here] = np.arange(len(ids))
                segments[number, here] = segment
                picks.append(number * width + start + learned)
                start += len(ids)
        places = np.concatenate(picks)
        padding = self._rounded(len(places), batch_size * width) - len(places)
        return Batch(
            tokens,
            positions,
            segments,
            picks=np.pad(places, (0, padding)).astype("int32"),
            targets=np.pad(tokens.ravel()[places + 1], (0, padding)),
            weights=np.pad(np.ones(len(places), "float32"), (0, padding)),
        )

    def _rounded(self, size: int, most: int) -> int:
        return min(-(-size // self.multiple) * self.multiple, most)

    def _ids(self, example: Segments) -> tuple[np.ndarray, np.ndarray]:
        """An example's ids with the end of text, and the places in it whose next token is learned."""
        parts = [self.tokens.segment(i).astype("int32") for i in example]
        ids = np.concatenate([*parts, [self.end_of_text]])
        if not self.completion_only:
            return ids, np.arange(len(ids) - 1)
        completion = np.repeat(self.tokens.kinds[example] == COMPLETION, [len(part) for part in parts])
        # Learned are a completion's tokens and the one after it: the next prompt's first, or the end of text.
        learned = np.append(completion, False)
        learned[1:] |= completion
        return ids, np.flatnonzero(learned[1:])
