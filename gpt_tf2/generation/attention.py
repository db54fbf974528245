"""Attention over a cache on CPUs, compiled by Numba when it first runs: it reads each byte of the cache once.

LiteRT's product of two matrices packs its right one anew in each step, at a third of the memory's speed. Letters in
shapes are those of `model.py`; N is how many tiles of WIDTH slots there are.
"""

import math

import numba
import numpy as np
from numba import njit, prange

from gpt_tf2.generation.compiled import FAST, exponentials, f32

WIDTH = 128  # slots of a tile
THREADS = numba.get_num_threads()
ALONE = 1 << 19  # bytes that one thread has read before it would have woken another
LEVELS = f32(127)  # of int8 on either side of zero


def attend(new: np.ndarray, lengths: np.ndarray, cache: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Stores new tokens in a cache and attends, causally, over all of it.

    Args:
        new: queries, keys and values of new tokens, float32 [B, T, 3, H, D].
        lengths: int32 [B], how many tokens of each row are cached; there is room for T more.
        cache: keys and values, int8 or float32 [B, 2, H, N, D, WIDTH].
        scales: what they are multiplied by, float32 [B, 2, H, N, WIDTH]: a factor for each token of a head; that of a
            key includes 1/√D.

    Returns:
        Float32 [B, T, H, D].
    """
    rows, count, _, heads, depth = new.shape
    out = np.empty((rows, count, heads, depth), "float32")
    read = 2 * count * int((lengths + count).sum()) * heads * depth * cache.itemsize
    numba.set_num_threads(THREADS if read > ALONE else 1)
    attend_heads(new, lengths, cache, scales, out)
    return out


@njit(parallel=True, **FAST)
def attend_heads(new: np.ndarray, lengths: np.ndarray, cache: np.ndarray, scales: np.ndarray, out: np.ndarray) -> None:
    """As `attend`, into `out`."""
    rows, count, _, heads, _ = new.shape
    for i in prange(rows * heads):
        head, row = i // rows, i % rows  # each thread gets parts of all rows, as these differ in length
        before = lengths[row]
        for t in range(count):
            for part in range(2):
                store(new[row, t, 1 + part, head], cache[row, part, head], scales[row, part, head], before + t, part)
        slots = ((before + count - 1) // WIDTH + 1) * WIDTH
        weights = np.empty(slots, np.float32)
        for t in range(count):
            tokens = before + t + 1
            for n in range((tokens - 1) // WIDTH + 1):
                score(new[row, t, 0, head], cache[row, 0, head, n], weights[n * WIDTH : (n + 1) * WIDTH])
            softmax(weights, tokens, scales[row, 0, head].ravel(), scales[row, 1, head].ravel())
            out[row, t, head] = f32(0)
            for n in range((tokens - 1) // WIDTH + 1):
                mix(weights[n * WIDTH : (n + 1) * WIDTH], cache[row, 1, head, n], out[row, t, head])


@njit(**FAST)
def store(vector: np.ndarray, cache: np.ndarray, scales: np.ndarray, slot: int, part: int) -> None:
    """Puts a key (part 0) or value (part 1) [D] in a slot of [N, D, WIDTH], with its scale in [N, WIDTH]."""
    tile, place = slot // WIDTH, slot % WIDTH
    factor = f32(1)
    if cache.itemsize == 1:
        largest = f32(1e-30)
        for d in range(len(vector)):
            largest = max(largest, abs(vector[d]))
        factor = largest / LEVELS
        for d in range(len(vector)):
            cache[tile, d, place] = np.rint(vector[d] / factor)
    else:
        for d in range(len(vector)):
            cache[tile, d, place] = vector[d]
    scales[tile, place] = factor if part else factor / f32(math.sqrt(len(vector)))


@njit(**FAST)
def score(query: np.ndarray, keys: np.ndarray, scores: np.ndarray) -> None:
    """Query [D], keys [D, WIDTH] → their products [WIDTH], eight channels at a time."""
    flat, whole = keys.reshape(keys.size), len(query) // 8 * 8
    for s in range(WIDTH):
        scores[s] = f32(0)
    for group in range(len(query) // 8):
        q, k = query[group * 8 : group * 8 + 8], flat[group * 8 * WIDTH : (group + 1) * 8 * WIDTH]
        q0, q1, q2, q3, q4, q5, q6, q7 = q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7]
        for s in range(WIDTH):
            scores[s] += (
                q0 * f32(k[s])
                + q1 * f32(k[s + WIDTH])
                + q2 * f32(k[s + 2 * WIDTH])
                + q3 * f32(k[s + 3 * WIDTH])
                + q4 * f32(k[s + 4 * WIDTH])
                + q5 * f32(k[s + 5 * WIDTH])
                + q6 * f32(k[s + 6 * WIDTH])
                + q7 * f32(k[s + 7 * WIDTH])
            )
    for d in range(whole, len(query)):
        for s in range(WIDTH):
            scores[s] += query[d] * f32(keys[d, s])


@njit(**FAST)
def softmax(scores: np.ndarray, tokens: int, of_keys: np.ndarray, of_values: np.ndarray) -> None:
    """Turns the scores of the first tokens into weights of their values, in place; the other slots get zero.

    Args:
        of_keys, of_values: what they are multiplied by, for each slot.
    """
    top, total = f32(-np.inf), f32(0)
    for s in range(tokens):
        scores[s] *= of_keys[s]
        top = max(top, scores[s])
    exponentials(scores[:tokens], top)
    for s in range(tokens):
        total += scores[s]
    share = f32(1) / total
    for s in range(tokens):
        scores[s] *= share * of_values[s]
    scores[tokens:] = f32(0)


@njit(**FAST)
def mix(weights: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Adds the weighted sums of values [D, WIDTH] to out [D]."""
    for d in range(len(out)):
        total = f32(0)
        for s in range(WIDTH):
            total += weights[s] * f32(values[d, s])
        out[d] += total
