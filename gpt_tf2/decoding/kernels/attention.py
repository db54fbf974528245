"""Attention over a cache, on CPUs, compiled by Numba on first use. It reads each byte of the cache once.

LiteRT's matrix product would repack its right operand, here the cache, in every step, at a third of the memory's speed.

Each head's cache is cut into tiles of TILE positions. A tile of keys is [D, TILE], transposed; a tile of values is
[TILE, D]. So both products, queries × keys and weights × values, run along the rows of the right matrix, which
vectorizes, and are one function.

Letters in shapes: B sequences, T new tokens of all of them, H heads, D size of a head, N tiles.
"""

import math
from typing import Any

import numba
import numpy as np
from numba import prange

from gpt_tf2.backend.numba_kernels import (
    compile_kernel,
    compute_exponential,
    f32,
    find_largest_size,
    flip_if_negative,
)
from gpt_tf2.decoding.kernels.products import GROUP, ROUNDER, TILE, add_products
from gpt_tf2.decoding.kernels.work import Crew, add_to_counter, end_phase, take_item

THREADS = numba.get_num_threads()
ONE_THREAD_BYTES = 1 << 21  # one thread reads this much of the cache before LiteRT's threads let another begin
BLOCKS = 4  # of heads for each thread: if threads alternated head by head, each would fetch the other's memory
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
    threads = THREADS if bytes_read > ONE_THREAD_BYTES else 1
    numba.set_num_threads(threads)
    with Crew.turn:
        attend_heads(new, counts, np.cumsum(counts) - counts, lengths, cache, scales, out, threads)
    return out


@compile_kernel(parallel=True)
def attend_heads(
    new: np.ndarray,
    counts: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    out: np.ndarray,
    threads: int,
) -> None:
    """As `attend`, into `out` [T, H, D].

    Each thread takes the next head when it is done with one: the second may begin late, as LiteRT's threads go on
    spinning on the cores for a while.

    firsts: int [B], the index in `new` of each sequence's first token.
    """
    sequences, taken = len(counts), np.zeros(1, np.int64)
    total = sequences * out.shape[1]
    size = max(1, total // (BLOCKS * threads))
    for _ in prange(threads):
        weights = np.zeros((GROUP, TILE), np.float32)
        largest, totals = np.zeros(GROUP, np.float32), np.zeros(GROUP, np.float32)
        first = size * add_to_counter(taken, 0, 1)
        while first < total:
            for work in range(first, min(first + size, total)):
                following = min(work + 1, total - 1)
                head, sequence = work // sequences, work % sequences  # each thread gets all: their work differs
                attend_head(
                    new,
                    firsts[sequence],
                    counts[sequence],
                    counts[sequence],
                    head,
                    lengths[sequence],
                    cache[sequence, 0, head],
                    cache[sequence, 1, head],
                    scales[sequence, 0, head],
                    scales[sequence, 1, head],
                    cache[following % sequences, 0, following // sequences, 0],
                    cache[following % sequences, 1, following // sequences, 0],
                    weights,
                    largest,
                    totals,
                    out,
                )
            first = size * add_to_counter(taken, 0, 1)


@compile_kernel
def attend_head(
    new: np.ndarray,
    start: int,
    count: int,
    shown: int,
    head: int,
    length: int,
    keys: np.ndarray,
    values: np.ndarray,
    key_scales: np.ndarray,
    value_scales: np.ndarray,
    next_keys: np.ndarray,
    next_values: np.ndarray,
    weights: np.ndarray,
    largest: np.ndarray,
    totals: np.ndarray,
    out: np.ndarray,
) -> None:
    """One head of one sequence with `length` cached positions and `count` new ones, of `new` and `out` from `start` on.

    Args:
        shown: of how many of the last new ones to compute it.
        keys, values: [N, D·TILE].
        key_scales, value_scales: [N, TILE].
        next_keys, next_values: [D·TILE], the first tiles of what is read next.
        weights, largest, totals: float32 [GROUP, TILE], [GROUP] and [GROUP], room to work in.
    """
    depth = new.shape[3]
    for t in range(count):
        tile, offset = (length + t) // TILE, (length + t) % TILE
        key, value = keys[tile].reshape(depth, TILE)[:, offset], values[tile].reshape(TILE, depth)[offset]
        key_scales[tile, offset] = store(new[start + t, 1, head], key) / f32(math.sqrt(depth))
        value_scales[tile, offset] = store(new[start + t, 2, head], value)
    size = GROUP if shown >= GROUP else 1
    for group in range(count - shown, count, size):
        first = min(group, count - size)  # the last group may overlap the one before
        tokens = slice(start + first, start + first + size)
        queries, sums = new[tokens, 0, head], out[tokens, head]
        for query in range(size):
            largest[query], totals[query] = -np.inf, 0
            for d in range(depth):
                sums[query, d] = 0
        tiles = (length + first + size - 1) // TILE + 1
        for n in range(tiles):
            for query in range(size):
                for s in range(TILE):
                    weights[query, s] = 0
            ahead = keys[n + 1] if n + 1 < tiles else next_keys
            add_products(queries, keys[n].reshape(depth, TILE), weights, ahead.reshape(depth, TILE))
            for query in range(size):
                visible = length + first + query + 1 - n * TILE
                highest = scale_scores(weights[query], visible, key_scales[n], largest[query])
                shrink = compute_exponential(largest[query] - highest)
                largest[query] = highest
                totals[query] = shrink * totals[query] + weigh(weights[query], highest, value_scales[n])
                for d in range(depth):
                    sums[query, d] *= shrink
            used = min(TILE, length + first + size - n * TILE)
            ahead = values[n + 1] if n + 1 < tiles else next_values
            add_products(weights[:size], values[n].reshape(TILE, depth)[:used], sums, ahead.reshape(TILE, depth))
        for query in range(size):
            normalizer = f32(1) / totals[query]
            for d in range(depth):
                sums[query, d] *= normalizer


@compile_kernel
def store(vector: np.ndarray, target: np.ndarray) -> np.float32:
    """Writes a vector [D] to its position in the cache, rounded if that is int8, and returns its scale."""
    scale = f32(1)
    if target.itemsize == 1:
        scale = max(find_largest_size(vector), f32(1e-30)) / INT8_MAX
        factor = f32(1) / scale
        for d in range(len(vector)):
            target[d] = f32(vector[d] * factor + ROUNDER).view(np.int32)  # its low byte
    else:
        for d in range(len(vector)):
            target[d] = vector[d]
    return scale


@compile_kernel
def scale_scores(scores: np.ndarray, visible: int, scales: np.ndarray, largest: np.float32) -> np.float32:
    """Multiplies a tile's scores [TILE] by the keys' scales, in place. Those from `visible` on become -inf.

    Returns the largest score, or `largest` if that is more.
    """
    shown, highest = min(max(visible, 0), TILE), flip_if_negative(f32(largest).view(np.int32))
    for s in range(shown):
        score = scores[s] * scales[s]
        scores[s] = score
        highest = max(highest, flip_if_negative(f32(score).view(np.int32)))  # see `find_largest`
    for s in range(shown, TILE):
        scores[s] = f32(-np.inf)
    return np.int32(flip_if_negative(highest)).view(np.float32)


@compile_kernel
def weigh(scores: np.ndarray, largest: np.float32, scales: np.ndarray) -> np.float32:
    """Turns a tile's scores [TILE] into weights times the values' scales, in place. Returns the sum of the weights."""
    total = f32(0)
    for s in range(TILE):
        weight = compute_exponential(scores[s] - largest)
        total += weight
        scores[s] = weight * scales[s]
    return total


def make_float_room(cache: np.ndarray) -> tuple:
    """What `attend_to_floats` works in; see `attend_head`."""
    return np.zeros((GROUP, TILE), np.float32), np.zeros(GROUP, np.float32), np.zeros(GROUP, np.float32)


def attend_to_floats(
    new: np.ndarray,
    counts: np.ndarray,
    shown: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    room: Any,
    out: np.ndarray,
    counters: np.ndarray,
    phase: int,
    thread: int,
    threads: int,
) -> None:
    """A thread's share of the attention of one block; see `attend` in `network.py`."""
    sequences, heads = len(counts), cache.shape[2]
    items, done = sequences * heads, 0
    weights, largest, totals = room
    item = take_item(counters, phase, thread, threads, items)
    while item >= 0:
        head, sequence = item // sequences, item % sequences  # each thread gets all: their work differs
        following = min(item + 1, items - 1)
        next_head, next_sequence = following // sequences, following % sequences
        attend_head(
            new,
            firsts[sequence],
            counts[sequence],
            shown[sequence],
            head,
            lengths[sequence],
            cache[sequence, 0, head],
            cache[sequence, 1, head],
            scales[sequence, 0, head],
            scales[sequence, 1, head],
            cache[next_sequence, 0, next_head, 0],
            cache[next_sequence, 1, next_head, 0],
            weights,
            largest,
            totals,
            out,
        )
        done += 1
        item = take_item(counters, phase, thread, threads, items)
    end_phase(counters, phase, thread, threads, done, items)
