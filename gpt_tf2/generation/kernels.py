"""The passes over a whole vocabulary that drawing a token takes, compiled by Numba when they first run."""

import numpy as np
from numba import njit

from gpt_tf2.backend.numba_kernels import FAST, exponentials, f32, largest_of

PART = 256  # tokens whose probabilities are summed at a time
FEW = 128  # tokens among which the nucleus's edge is looked for by sorting them


@njit(**FAST)
def drawn(logits: np.ndarray, uniform: float) -> int:
    """The id that a number within [0, 1) stands for: the first whose cumulative probability is above it."""
    mass, sums = masses(logits, largest_of(logits))
    part, left = place(sums, uniform * sums.sum())
    return part * PART + place(mass[part * PART : (part + 1) * PART], left)[0]


@njit(**FAST)
def nucleus(logits: np.ndarray, p: float) -> np.ndarray:
    """The logits [N] of the fewest likeliest tokens that have `p` of the probability, and -inf for all others.

    The least of their logits is found by halving an interval in which it lies; of equal ones the first are taken.
    """
    largest = largest_of(logits)
    mass, sums = masses(logits, largest)
    total = sums.sum()
    needed = p * total
    # The edge is in (low, high]: tokens each below (1 - p) / N would together not be missed.
    low = np.nextafter(f32(largest + np.log((total - needed) / len(logits)) - 1e-3), f32(-np.inf))
    high, below, above = largest, f32(len(logits)), f32(0)  # how many tokens are above low, and above high
    while below - above > FEW:
        middle = (low + high) / f32(2)
        if not low < middle < high:
            break
        found, count = f32(0), f32(0)
        for i in range(len(logits)):
            found += mass[i] if logits[i] > middle else f32(0)
            count += f32(1) if logits[i] > middle else f32(0)
        if found < needed:
            high, above = middle, count
        else:
            low, below = middle, count
    few, kept, reached = np.empty(len(logits), np.float32), 0, np.float64(0)
    for i in range(len(logits)):
        reached += mass[i] if logits[i] > high else f32(0)
    for i in range(len(logits)):
        if low < logits[i] <= high:
            few[kept] = logits[i]
            kept += 1
    edge, equal = high, 0  # the least logit, and how many like it are kept
    for logit in np.sort(few[:kept])[::-1]:
        if reached >= needed:
            break
        edge, equal = logit, equal + 1 if logit == edge else 1
        reached += np.exp(np.float64(logit - largest))
    result, alike = np.empty_like(logits), 0
    for i in range(len(logits)):
        result[i] = logits[i] if logits[i] >= edge else f32(-np.inf)
        alike += logits[i] == edge
    if alike > equal:
        for i in np.flatnonzero(logits == edge)[equal:]:
            result[i] = -np.inf
    return result


@njit(**FAST)
def masses(logits: np.ndarray, largest: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities over the largest one, float32 [N], and their float64 sums over each PART of them."""
    mass = logits.copy()
    exponentials(mass, largest)
    sums = np.empty((len(mass) + PART - 1) // PART, np.float64)
    for part in range(len(sums)):
        total = f32(0)
        for value in mass[part * PART : (part + 1) * PART]:
            total += value
        sums[part] = total
    return mass, sums


@njit(**FAST)
def place(values: np.ndarray, left: float) -> tuple[int, float]:
    """Where the cumulative sum of values first exceeds `left`, and what is left there; never at a zero."""
    found = 0
    for i in range(len(values)):
        if values[i] > 0:
            found = i
            if left < values[i]:
                break
            left -= values[i]
    return found, left
