"""Passes over the whole vocabulary for drawing a token, compiled by Numba on first use.

A token's weight is exp(logit - largest logit): its probability, not normalized.
"""

import numpy as np

from gpt_tf2.backend.numba_kernels import compile_kernel, exponentiate, f32, find_largest

CHUNK = 256  # tokens whose weights are summed in float32 before the float64 sum
SORTABLE = 128  # tokens among which sorting finds the nucleus's edge


@compile_kernel
def draw_token(logits: np.ndarray, uniform: float) -> int:
    """The first token id whose cumulative probability is above `uniform`.

    Args:
        logits: float32 [n_vocab].
        uniform: a number in [0, 1).
    """
    weights, chunk_sums = compute_weights(logits, find_largest(logits))
    chunk, rest = find_cumulative(chunk_sums, uniform * chunk_sums.sum())
    return chunk * CHUNK + find_cumulative(weights[chunk * CHUNK : (chunk + 1) * CHUNK], rest)[0]


@compile_kernel
def keep_nucleus(logits: np.ndarray, p: float) -> np.ndarray:
    """The logits of the smallest set of most likely tokens with total probability `p` or more; -inf elsewhere.

    Bisects for the set's lowest logit, its edge, until few candidates are left, and sorts those. Among tokens
    with the edge's logit, those with the lowest ids are kept.

    Args:
        logits: float32 [n_vocab].
        p: in (0, 1).
    """
    largest = find_largest(logits)
    weights, chunk_sums = compute_weights(logits, largest)
    total = chunk_sums.sum()
    needed = p * total
    # The edge is in (low, high]. Even all n_vocab tokens at `low` would weigh no more than the (1 - p) left out.
    low = np.nextafter(f32(largest + np.log((total - needed) / len(logits)) - 1e-3), f32(-np.inf))
    high, above_low, above_high = largest, f32(len(logits)), f32(0)  # above_*: how many logits exceed the bound
    while above_low - above_high > SORTABLE:
        middle = (low + high) / f32(2)
        if not low < middle < high:
            break
        reached, count = f32(0), f32(0)
        for i in range(len(logits)):
            reached += weights[i] if logits[i] > middle else f32(0)
            count += f32(1) if logits[i] > middle else f32(0)
        if reached < needed:
            high, above_high = middle, count
        else:
            low, above_low = middle, count
    candidates, n_candidates, kept_weight = np.empty(len(logits), np.float32), 0, np.float64(0)
    for i in range(len(logits)):
        kept_weight += weights[i] if logits[i] > high else f32(0)
    for i in range(len(logits)):
        if low < logits[i] <= high:
            candidates[n_candidates] = logits[i]
            n_candidates += 1
    edge, kept_at_edge = high, 0
    for logit in np.sort(candidates[:n_candidates])[::-1]:
        if kept_weight >= needed:
            break
        edge, kept_at_edge = logit, kept_at_edge + 1 if logit == edge else 1
        kept_weight += np.exp(np.float64(logit - largest))
    result, at_edge = np.empty_like(logits), 0
    for i in range(len(logits)):
        result[i] = logits[i] if logits[i] >= edge else f32(-np.inf)
        at_edge += logits[i] == edge
    if at_edge > kept_at_edge:
        for i in np.flatnonzero(logits == edge)[kept_at_edge:]:
            result[i] = -np.inf
    return result


@compile_kernel
def compute_weights(logits: np.ndarray, largest: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """The weights, float32 [n_vocab], and the sum of each CHUNK of them, float64 [n_vocab / CHUNK, rounded up]."""
    weights = logits.copy()
    exponentiate(weights, largest)
    chunk_sums = np.empty((len(weights) + CHUNK - 1) // CHUNK, np.float64)
    for chunk in range(len(chunk_sums)):
        total = f32(0)
        for weight in weights[chunk * CHUNK : (chunk + 1) * CHUNK]:
            total += weight
        chunk_sums[chunk] = total
    return weights, chunk_sums


@compile_kernel
def find_cumulative(weights: np.ndarray, target: float) -> tuple[int, float]:
    """The first index whose cumulative sum is above `target`, and `target` less the sum before it.

    Never the index of a zero: rounding may leave `target` at or above the total, and then the last positive weight
    is chosen.
    """
    index = 0
    for i in range(len(weights)):
        if weights[i] > 0:
            index = i
            if target < weights[i]:
                break
            target -= weights[i]
    return index, target
