"""Shared prefixes of sequences."""

from collections.abc import Sequence


def count_shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the shared prefix of two sequences, in tokens."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
