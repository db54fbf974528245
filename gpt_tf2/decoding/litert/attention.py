"""Attention over a cache on CPUs, compiled by Numba when it first runs: it reads each byte of the cache once.

LiteRT's product of two matrices packs its right one anew in each step, at a third of the memory's speed. Letters in
shapes are those of `model.py`; N is how many tiles of WIDTH slots there are, T how many new tokens all rows have.
"""

import math

import numba
import numpy as np
from numba import njit, prange

from gpt_tf2.backend.numba_kernels import JIT_OPTIONS, exponentiate, f32, find_largest

WIDTH = 128  # slots of a tile
FOUR = 4  # queries that share each byte read where there are so many
THREADS = numba.get_num_threads()
ALONE = 1 << 19  # bytes that one thread has read before it would have woken another
LEVELS = f32(127)  # of int8 on either side of zero


def attend(
    new: np.ndarray, counts: np.ndarray, lengths: np.ndarray, cache: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    """Stores new tokens in a cache and attends, causally, over all of it.

    Args:
        new: queries, keys and values of new tokens, row after row, float32 [T, 3, H, D].
        counts: int32 [B], how many of them each row has.
        lengths: int32 [B], how many tokens of each row are cached; there is room for the new ones.
        cache: keys and values, int8 or float32 [B, 2, H, N, D·WIDTH]; a tile of keys is [D, WIDTH], one of values
            [WIDTH, D].
        scales: what they are multiplied by, float32 [B, 2, H, N, WIDTH]: a factor for each token of a head; that of a
            key includes 1/√D.

    Returns:
        Float32 [T, H, D].
    """
    out = np.empty((len(new), *new.shape[2:]), "float32")
    read = 2 * int((counts * (lengths + counts)).sum()) * out[0].size * cache.itemsize
    numba.set_num_threads(THREADS if read > ALONE else 1)
    attend_heads(new, counts, np.cumsum(counts) - counts, lengths, cache, scales, out)
    return out


def compile_for(precision: str) -> None:
    """Compiles `attend` for a cache of int8 or float32, which takes seconds where it has not been done before."""
    cache, scales = np.zeros((1, 2, 1, 1, WIDTH), precision), np.zeros((1, 2, 1, 1, WIDTH), "float32")
    attend(np.zeros((1, 3, 1, 1), "float32"), np.ones(1, "int32"), np.zeros(1, "int32"), cache, scales)


@njit(parallel=True, **JIT_OPTIONS)
def attend_heads(
    new: np.ndarray,
    counts: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    out: np.ndarray,
) -> None:
    """As `attend`, into `out`; the new tokens of a row begin at that of `firsts`."""
    rows, heads = len(counts), out.shape[1]
    for i in prange(rows * heads):
        head, row = i // rows, i % rows  # each thread gets parts of all rows, as these differ in length
        of_row = slice(firsts[row], firsts[row] + counts[row])
        keys, values = cache[row, 0, head], cache[row, 1, head]
        of_keys, of_values = scales[row, 0, head], scales[row, 1, head]
        attend_head(new[of_row, :, head], lengths[row], keys, values, of_keys, of_values, out[of_row, head])


@njit(**JIT_OPTIONS)
def attend_head(
    new: np.ndarray,
    before: int,
    keys: np.ndarray,
    values: np.ndarray,
    of_keys: np.ndarray,
    of_values: np.ndarray,
    out: np.ndarray,
) -> None:
    """One head of a row with `before` cached tokens: new [T, 3, D] → out [T, D].

    Args:
        keys, values: [N, D·WIDTH]. of_keys, of_values: what they are multiplied by, [N, WIDTH].
    """
    count, _, depth = new.shape
    for t in range(count):
        tile, place = (before + t) // WIDTH, (before + t) % WIDTH
        key, value = keys[tile].reshape(depth, WIDTH)[:, place], values[tile].reshape(WIDTH, depth)[place]
        of_keys[tile, place] = store(new[t, 1], key) / f32(math.sqrt(depth))
        of_values[tile, place] = store(new[t, 2], value)
    size = FOUR if count >= FOUR else 1
    queries = np.empty((size, depth), np.float32)
    for start in range(0, count, size):
        first = min(start, count - size)  # the last ones may be of two groups
        for query in range(size):
            for d in range(depth):
                queries[query, d] = new[first + query, 0, d]
        tiles = (before + first + size - 1) // WIDTH + 1
        weights, sums = np.zeros((tiles, size, WIDTH), np.float32), np.zeros((size, depth), np.float32)
        for n in range(tiles):
            add_products(queries, keys[n].reshape(depth, WIDTH), weights[n])
        for query in range(size):
            softmax(weights, query, before + first + query + 1, of_keys, of_values)
        for n in range(tiles):
            add_products(weights[n], values[n].reshape(WIDTH, depth), sums)
        for query in range(size):
            for d in range(depth):
                out[first + query, d] = sums[query, d]


@njit(**JIT_OPTIONS)
def store(vector: np.ndarray, place: np.ndarray) -> np.float32:
    """Puts a vector [D] in its place in the cache: what is there has to be multiplied by."""
    factor = f32(1)
    if place.itemsize == 1:
        largest = f32(1e-30)
        for d in range(len(vector)):
            largest = max(largest, abs(vector[d]))
        factor = largest / LEVELS
        for d in range(len(vector)):
            place[d] = np.rint(vector[d] / factor)
    else:
        for d in range(len(vector)):
            place[d] = vector[d]
    return factor


@njit(**JIT_OPTIONS)
def add_products(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Adds the product of left [1 or FOUR, K] and right [K, M] to out [1 or FOUR, M].

    What is read of `right` is used for all rows, and eight or four of its rows for each access to `out`.
    """
    inner, columns = right.shape
    done = 0
    if len(left) == 1:
        x, y = left[0], out[0]
        for group in range(inner // 8):  # a range with a step would not run on vectors
            k = 8 * group
            x0, x1, x2, x3, x4, x5, x6, x7 = x[k], x[k + 1], x[k + 2], x[k + 3], x[k + 4], x[k + 5], x[k + 6], x[k + 7]
            r0, r1, r2, r3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            r4, r5, r6, r7 = right[k + 4], right[k + 5], right[k + 6], right[k + 7]
            for m in range(columns):
                y[m] += (
                    x0 * f32(r0[m])
                    + x1 * f32(r1[m])
                    + x2 * f32(r2[m])
                    + x3 * f32(r3[m])
                    + x4 * f32(r4[m])
                    + x5 * f32(r5[m])
                    + x6 * f32(r6[m])
                    + x7 * f32(r7[m])
                )
        done = inner // 8 * 8
    else:
        a, b, c, d = left[0], left[1], left[2], left[3]
        ya, yb, yc, yd = out[0], out[1], out[2], out[3]
        for group in range(inner // 4):
            k = 4 * group
            a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            c0, c1, c2, c3 = c[k], c[k + 1], c[k + 2], c[k + 3]
            d0, d1, d2, d3 = d[k], d[k + 1], d[k + 2], d[k + 3]
            r0, r1, r2, r3 = right[k], right[k + 1], right[k + 2], right[k + 3]
            for m in range(columns):
                v0, v1, v2, v3 = f32(r0[m]), f32(r1[m]), f32(r2[m]), f32(r3[m])
                ya[m] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                yb[m] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
                yc[m] += c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
                yd[m] += d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3
        done = inner // 4 * 4
    for k in range(done, inner):
        for i in range(len(left)):
            for m in range(columns):
                out[i, m] += left[i, k] * f32(right[k, m])


@njit(**JIT_OPTIONS)
def softmax(scores: np.ndarray, query: int, tokens: int, of_keys: np.ndarray, of_values: np.ndarray) -> None:
    """Turns a query's scores of the first tokens into weights of their values, in place; other slots get zero.

    Args:
        scores: [N, 1 or FOUR, WIDTH].
        of_keys, of_values: what they are multiplied by, [N, WIDTH].
    """
    top, total = f32(-np.inf), f32(0)
    for n in range(len(scores)):
        tile, factors = scores[n, query], of_keys[n]
        for s in range(WIDTH):
            tile[s] *= factors[s]
        for s in range(max(0, tokens - n * WIDTH), WIDTH):
            tile[s] = f32(-np.inf)
        top = max(top, find_largest(tile))
    for n in range(len(scores)):
        tile = scores[n, query]
        exponentiate(tile, top)
        for s in range(WIDTH):
            total += tile[s]
    share = f32(1) / total
    for n in range(len(scores)):
        tile, factors = scores[n, query], of_values[n]
        for s in range(WIDTH):
            tile[s] *= share * factors[s]
