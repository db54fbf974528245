"""Attention over a cache, on CPUs, compiled by Numba on first use. It reads each byte of the cache once.

LiteRT's matrix product would repack its right operand, here the cache, in every step, at a third of the memory's speed.

Each head's cache is cut into tiles of TILE positions. A tile of keys is [D, TILE], transposed; a tile of values is
[TILE, D]. So both products, queries × keys and weights × values, run along the rows of the right matrix, which
vectorizes, and are one function.

Letters in shapes: B sequences, T new tokens of all of them, H heads, D size of a head, N tiles.
"""

import math

import numba
import numpy as np
from numba import prange

from gpt_tf2.backend.numba_kernels import compile_kernel, exponentiate, f32, find_largest

TILE = 128  # positions
GROUP = 4  # queries that are computed together, if a sequence has that many new tokens: they share each byte read
THREADS = numba.get_num_threads()
ONE_THREAD_BYTES = 1 << 19  # one thread reads this much of the cache before it would have woken another
INT8_MAX = f32(127)


def attend(
    new: np.ndarray, counts: np.ndarray, lengths: np.ndarray, cache: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    """Stores the keys and values of new tokens in the cache, and attends causally to all that is cached.

    Args:
        new: float32 [T, 3, H, D], the new tokens' queries, keys and values, sequence by sequence.
        counts: int32 [B], how many new tokens each sequence has.
        lengths: int32 [B], how many positions of each sequence are cached. There must be room for the new ones.
        cache: int8 or float32 [B, 2, H, N, D·TILE], keys and values in tiles. Changed in place.
        scales: float32 [B, 2, H, N, TILE], for each position of a head what its cached key or value is multiplied by.
            A key's includes the 1/√D of the attention. Changed in place.

    Returns:
        Float32 [T, H, D].
    """
    out = np.empty((len(new), *new.shape[2:]), "float32")
    bytes_read = 2 * int((counts * (lengths + counts)).sum()) * out[0].size * cache.itemsize
    numba.set_num_threads(THREADS if bytes_read > ONE_THREAD_BYTES else 1)
    attend_heads(new, counts, np.cumsum(counts) - counts, lengths, cache, scales, out)
    return out


def compile_for(precision: str) -> None:
    """Compiles `attend` for a cache of "int8" or "float32": seconds, once on a machine."""
    cache, scales = np.zeros((1, 2, 1, 1, TILE), precision), np.zeros((1, 2, 1, 1, TILE), "float32")
    attend(np.zeros((1, 3, 1, 1), "float32"), np.ones(1, "int32"), np.zeros(1, "int32"), cache, scales)


@compile_kernel(parallel=True)
def attend_heads(
    new: np.ndarray,
    counts: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    out: np.ndarray,
) -> None:
    """As `attend`, into `out` [T, H, D].

    firsts: int [B], the index in `new` of each sequence's first token.
    """
    sequences, heads = len(counts), out.shape[1]
    for i in prange(sequences * heads):
        head, sequence = i // sequences, i % sequences  # each thread gets all sequences, as their lengths differ
        tokens = slice(firsts[sequence], firsts[sequence] + counts[sequence])
        keys, values = cache[sequence, 0, head], cache[sequence, 1, head]
        key_scales, value_scales = scales[sequence, 0, head], scales[sequence, 1, head]
        attend_head(new[tokens, :, head], lengths[sequence], keys, values, key_scales, value_scales, out[tokens, head])


@compile_kernel
def attend_head(
    new: np.ndarray,
    length: int,
    keys: np.ndarray,
    values: np.ndarray,
    key_scales: np.ndarray,
    value_scales: np.ndarray,
    out: np.ndarray,
) -> None:
    """One head of one sequence with `length` cached positions: new [T, 3, D] → out [T, D].

    Args:
        keys, values: [N, D·TILE].
        key_scales, value_scales: [N, TILE].
    """
    count, _, depth = new.shape
    for t in range(count):
        tile, offset = (length + t) // TILE, (length + t) % TILE
        key, value = keys[tile].reshape(depth, TILE)[:, offset], values[tile].reshape(TILE, depth)[offset]
        key_scales[tile, offset] = store(new[t, 1], key) / f32(math.sqrt(depth))
        value_scales[tile, offset] = store(new[t, 2], value)
    size = GROUP if count >= GROUP else 1
    queries = np.empty((size, depth), np.float32)
    for start in range(0, count, size):
        first = min(start, count - size)  # the last group may overlap the one before
        for query in range(size):
            for d in range(depth):
                queries[query, d] = new[first + query, 0, d]
        tiles = (length + first + size - 1) // TILE + 1
        weights, sums = np.zeros((tiles, size, TILE), np.float32), np.zeros((size, depth), np.float32)
        for n in range(tiles):
            add_products(queries, keys[n].reshape(depth, TILE), weights[n])
        for query in range(size):
            softmax(weights, query, length + first + query + 1, key_scales, value_scales)
        for n in range(tiles):
            add_products(weights[n], values[n].reshape(TILE, depth), sums)
        for query in range(size):
            for d in range(depth):
                out[first + query, d] = sums[query, d]


@compile_kernel
def store(vector: np.ndarray, target: np.ndarray) -> np.float32:
    """Writes a vector [D] to its position in the cache, rounded if that is int8, and returns its scale."""
    scale = f32(1)
    if target.itemsize == 1:
        largest = f32(1e-30)
        for d in range(len(vector)):
            largest = max(largest, abs(vector[d]))
        scale = largest / INT8_MAX
        for d in range(len(vector)):
            target[d] = np.rint(vector[d] / scale)
    else:
        for d in range(len(vector)):
            target[d] = vector[d]
    return scale


@compile_kernel
def add_products(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Adds the product of left [1 or GROUP, K] and right [K, M] to out [1 or GROUP, M].

    Each element of `right` is read once for all rows of `left`. Each access to `out` adds eight rows of `right`, or
    four in a group.
    """
    inner, columns = right.shape
    done = 0
    if len(left) == 1:
        x, y = left[0], out[0]
        for group in range(inner // 8):  # a range with a step would not vectorize
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


@compile_kernel
def softmax(scores: np.ndarray, query: int, visible: int, key_scales: np.ndarray, value_scales: np.ndarray) -> None:
    """Turns a query's scores into attention weights times the values' scales, in place.

    Args:
        scores: [N, 1 or GROUP, TILE], products with the keys as they are cached.
        query: which row of each tile.
        visible: how many positions the query may attend to. Weights of later ones become zero.
        key_scales, value_scales: [N, TILE].
    """
    largest, total = f32(-np.inf), f32(0)
    for n in range(len(scores)):
        tile, tile_scales = scores[n, query], key_scales[n]
        for s in range(TILE):
            tile[s] *= tile_scales[s]
        for s in range(max(0, visible - n * TILE), TILE):
            tile[s] = f32(-np.inf)
        largest = max(largest, find_largest(tile))
    for n in range(len(scores)):
        tile = scores[n, query]
        exponentiate(tile, largest)
        for s in range(TILE):
            total += tile[s]
    normalizer = f32(1) / total
    for n in range(len(scores)):
        tile, tile_scales = scores[n, query], value_scales[n]
        for s in range(TILE):
            tile[s] *= normalizer * tile_scales[s]
