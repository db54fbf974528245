"""Draft tokens looked up in the sequence itself: summaries and answers copy from their passage."""

from collections.abc import Sequence

MAX_MATCH, MIN_MATCH = 4, 2  # length of the n-grams that are looked up, in tokens


class PromptLookup:
    """An index of one sequence's n-grams, for prompt lookup decoding (Saxena 2023).

    Example:
        >>> PromptLookup().propose([5, 6, 7, 8, 5, 6], count=2)
        [7, 8]
    """

    def __init__(self) -> None:
        self._indexed = 0  # tokens
        self._continuations: dict[tuple[int, ...], int] = {}  # n-gram → index of the token after its last occurrence

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that followed an earlier occurrence of the last tokens; none if they are new.

        Args:
            ids: the sequence so far. Between calls it may only grow.
        """
        for end in range(self._indexed, len(ids)):
            for size in range(MIN_MATCH, min(MAX_MATCH, end) + 1):
                self._continuations[tuple(ids[end - size : end])] = end
        self._indexed = len(ids)
        for size in range(min(MAX_MATCH, len(ids)), MIN_MATCH - 1, -1):
            start = self._continuations.get(tuple(ids[-size:]))
            if start is not None:
                return list(ids[start : start + count])
        return []
