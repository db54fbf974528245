"""Passes over the whole vocabulary for drawing a token, compiled by Numba on first use.

A token's weight is exp(logit - largest logit): its probability, not normalized. V is the size of the vocabulary. `room`
is float32 [V], to work in: a system takes longer to give new memory than a pass takes.
"""

import numpy as np

from gpt_tf2.backend.numba_kernels import compile_kernel, exponentiate, f32, find_largest, flip_if_negative

CHUNK = 256  # tokens whose weights are summed in float32 before the float64 sum
FEW = 64  # tokens among which the edge of those kept is found one by one
SCANNED = 64  # tokens that are looked at one by one if there is a candidate among them


@compile_kernel
def choose_token(logits: np.ndarray, choice: np.ndarray, uniform: float, room: np.ndarray) -> int:
    """The id of the next token.

    Args:
        logits: float32 [V]. Changed.
        choice: float64 [4], the numbers of a `Choice`.
        uniform: a number in [0, 1), which is not used where the likeliest token is taken.
    """
    temperature, top_k, top_p, min_p = choice
    if temperature == 0:
        return find_first(logits, find_largest(logits))
    for i in range(len(logits)):
        logits[i] /= f32(temperature)
    if 0 < top_k < len(logits):
        cut_top(logits, np.int64(top_k), room)
    if top_p < 1:
        cut_nucleus(logits, top_p, room)
    if min_p > 0:
        lowest = find_largest(logits) + f32(np.log(min_p))
        for i in range(len(logits)):
            logits[i] = logits[i] if logits[i] >= lowest else f32(-np.inf)
    return draw_token(logits, uniform, room)


@compile_kernel
def find_first(logits: np.ndarray, largest: np.float32) -> int:
    """The first token with the largest logit."""
    for i in range(len(logits)):
        if logits[i] == largest:
            return i
    return 0


@compile_kernel
def draw_token(logits: np.ndarray, uniform: float, room: np.ndarray) -> int:
    """The first token id whose cumulative probability is above `uniform`.

    Args:
        logits: float32 [V].
        uniform: a number in [0, 1).
    """
    chunk_sums = compute_weights(logits, find_largest(logits), room)
    chunk, rest = find_cumulative(chunk_sums, uniform * chunk_sums.sum())
    return chunk * CHUNK + find_cumulative(room[chunk * CHUNK : (chunk + 1) * CHUNK], rest)[0]


@compile_kernel
def cut_top(logits: np.ndarray, k: int, room: np.ndarray) -> None:
    """Rules out, by -inf, all but the `k` most likely tokens of float32 logits [V], `k` below V."""
    for i in range(len(logits)):
        room[i] = 1
    cut(logits, room, k, np.nextafter(find_least_finite(logits), f32(-np.inf)))


@compile_kernel
def cut_nucleus(logits: np.ndarray, p: float, room: np.ndarray) -> None:
    """Rules out all but the smallest set of most likely tokens with total probability `p` or more.

    Args:
        logits: float32 [V]. Becomes -inf where a token is ruled out.
        p: in (0, 1).
    """
    largest = find_largest(logits)
    total = compute_weights(logits, largest, room).sum()
    # Even all tokens at this bound would weigh no more than the (1 - p) left out.
    low = f32(largest + np.log((total - p * total) / len(logits)) - 1e-3)
    cut(logits, room, p * total, np.nextafter(low, f32(-np.inf)))


@compile_kernel
def cut(logits: np.ndarray, weights: np.ndarray, needed: float, low: np.float32) -> None:
    """Rules out all but the fewest most likely tokens with weights [V] that sum to `needed`.

    Bisects for the lowest of their logits, the edge, until few candidates are left, and goes through those. Among
    tokens with the edge's logit, those with the lowest ids are kept.

    low: a bound below the edge.
    """
    # The edge is in (low, high]. above_*: how many logits exceed the bound.
    high, above_low, above_high = find_largest(logits), f32(len(logits)), f32(0)
    while above_low - above_high > FEW:
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
    kept_weight, taken = np.float64(0), 0
    for i in range(len(logits)):
        kept_weight += weights[i] if logits[i] > high else f32(0)
    candidates = np.empty((int(above_low - above_high), 2), np.float32)  # logits and weights
    for first in range(0, len(logits), SCANNED):
        part, count = logits[first : first + SCANNED], f32(0)
        for i in range(len(part)):
            count += f32(1) if part[i] > low else f32(0)
            count -= f32(1) if part[i] > high else f32(0)
        for i in range(len(part) if count else 0):
            if low < part[i] <= high:
                candidates[taken, 0], candidates[taken, 1] = part[i], weights[first + i]
                taken += 1
    edge, kept_at_edge, below = high, 0, f32(np.inf)
    while kept_weight < needed:
        following = f32(-np.inf)  # the next lower logit
        for i in range(taken):
            following = candidates[i, 0] if following < candidates[i, 0] < below else following
        if following == f32(-np.inf):
            break
        edge, kept_at_edge, below = following, 0, following
        for i in range(taken):
            if candidates[i, 0] == edge and kept_weight < needed:
                kept_weight += candidates[i, 1]
                kept_at_edge += 1
    at_edge = f32(0)
    for i in range(len(logits)):
        at_edge += f32(1) if logits[i] == edge else f32(0)
        logits[i] = logits[i] if logits[i] >= edge else f32(-np.inf)
    for i in range(len(logits) if at_edge > kept_at_edge else 0):
        if logits[i] == edge:
            kept_at_edge -= 1
            logits[i] = logits[i] if kept_at_edge >= 0 else f32(-np.inf)


@compile_kernel
def find_least_finite(logits: np.ndarray) -> np.float32:
    """The least of float32 logits above -inf; inf if there is none. Compares integers, as `find_largest`."""
    bits = logits.view(np.int32)
    least, infinity = np.float32(np.inf).view(np.int32), flip_if_negative(np.float32(-np.inf).view(np.int32))
    for i in range(len(bits)):
        number = flip_if_negative(bits[i])
        least = min(least, number if number > infinity else np.int32(2**31 - 1))
    return np.int32(flip_if_negative(least)).view(np.float32)


@compile_kernel
def compute_weights(logits: np.ndarray, largest: np.float32, weights: np.ndarray) -> np.ndarray:
    """Writes the weights, float32 [V]. Returns the sum of each CHUNK of them, float64 [V / CHUNK, rounded up]."""
    for i in range(len(logits)):  # as loops over indices vectorize, but not assignments and loops over values
        weights[i] = logits[i]
    exponentiate(weights, largest)
    chunk_sums = np.empty((len(weights) + CHUNK - 1) // CHUNK, np.float64)
    for chunk in range(len(chunk_sums)):
        part, total = weights[chunk * CHUNK : (chunk + 1) * CHUNK], f32(0)
        for i in range(len(part)):
            total += part[i]
        chunk_sums[chunk] = total
    return chunk_sums


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
