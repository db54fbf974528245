"""Guessing the next tokens of a row from what stands in it: summaries and answers copy from their article."""

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # tokens that must have stood there before in the same order
COUNT = 6  # tokens guessed at a time


class Lookup:
    """An index of a row's tokens by the few before them (prompt lookup, Saxena 2023)."""

    def __init__(self) -> None:
        self.indexed = 0
        self.after: dict[tuple[int, ...], int] = {}  # the last tokens → where the one after them stood last

    def guess(self, ids: Sequence[int], count: int) -> list[int]:
        """What followed the last tokens where they stood before, at most `count`; ids only grow between calls."""
        for end in range(self.indexed, len(ids)):
            for size in range(SHORTEST, min(LONGEST, end) + 1):
                self.after[tuple(ids[end - size : end])] = end
        self.indexed = len(ids)
        for size in range(min(LONGEST, len(ids)), SHORTEST - 1, -1):
            at = self.after.get(tuple(ids[-size:]))
            if at is not None:
                return list(ids[at : at + count])
        return []
