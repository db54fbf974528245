"""Attention over a cache of bytes, on processors with an instruction for their products; see `byte_tiles.py`.

The softmax is taken tile by tile: sums and the total of weights shrink when a larger score comes (Milakov and
Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3).
"""

from typing import NamedTuple

import numpy as np

from gpt_tf2.backend.numba_kernels import compile_kernel
from gpt_tf2.decoding.kernels.byte_tiles import (
    BLOCK,
    GROUP,
    HIDDEN,
    SPLIT,
    TILE,
    add_first_values,
    add_group_values,
    add_narrow_group_values,
    add_narrow_values,
    add_values,
    begin,
    finish,
    relate,
    score,
    score_first,
    score_group,
    store_key,
    store_value,
    weigh,
    weigh_group,
)
from gpt_tf2.decoding.kernels.products import CACHE_LINE, LANES

SHARED = 16 * GROUP  # queries that share a tile while all lies in the processor's first cache


class Room(NamedTuple):
    """What `attend_bytes` works in. Letters in shapes: Q is SHARED, D size of a head.

    queries: int8 [Q, D·SPLIT]. factors: float32 [Q]. offsets: int32 [Q]. See `begin`.
    largest: float32 [Q], of the scores so far. totals: float32 [Q, LANES], whose sum is that of the weights.
    sums: float32 [Q, D], of values, weighted.
    scores: float32 [GROUP, TILE]. weights: int8 [GROUP, TILE·SPLIT]. shrinks: float32 [GROUP]. See `weigh`.
    ratios: float32 [TILE]. See `relate`.
    """

    queries: np.ndarray
    factors: np.ndarray
    offsets: np.ndarray
    largest: np.ndarray
    totals: np.ndarray
    sums: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    shrinks: np.ndarray
    ratios: np.ndarray


@compile_kernel
def make_room(depth: int) -> Room:
    """Room for one thread."""
    return Room(
        align(SHARED * depth * SPLIT).view(np.int8).reshape(SHARED, depth * SPLIT),
        align(SHARED * 4).view(np.float32),
        align(SHARED * 4).view(np.int32),
        align(SHARED * 4).view(np.float32),
        align(SHARED * LANES * 4).view(np.float32).reshape(SHARED, LANES),
        align(SHARED * depth * 4).view(np.float32).reshape(SHARED, depth),
        align(GROUP * TILE * 4).view(np.float32).reshape(GROUP, TILE),
        align(GROUP * TILE * SPLIT).view(np.int8).reshape(GROUP, TILE * SPLIT),
        align(GROUP * 4).view(np.float32),
        align(TILE * 4).view(np.float32),
    )


@compile_kernel
def align(size: int) -> np.ndarray:
    """Memory of a number of bytes that begins with a line of the processor's cache: no vector lies in two."""
    memory = np.empty(size + CACHE_LINE, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE
    return memory[first : first + size]


@compile_kernel
def attend_bytes(
    new: np.ndarray,
    start: int,
    count: int,
    head: int,
    length: int,
    cache: np.ndarray,
    scales: np.ndarray,
    keys: int,
    next_keys: int,
    next_used: int,
    apart: int,
    room: Room,
    out: np.ndarray,
) -> None:
    """One head of one sequence with `length` cached positions and `count` new ones, of `new` and `out` from `start` on.

    Args:
        new: float32 [T, 3, H, D], queries, keys and values. D must be a multiple of LANES, and is best one of BLOCK.
        cache: int8 [N, D·TILE], the tiles of all sequences and heads. scales: float32 [N, TILE], their scales.
        keys, next_keys: the first tile of the head's keys, and that of the head whose `next_used` positions come next.
        apart: tiles from those of keys to those of their values.
        out: float32 [T, H, D].
    """
    for t in range(count):
        tile, position = (length + t) // TILE, (length + t) % TILE
        store_key(new, start + t, head, cache, keys + tile, scales, position)
        store_value(new, start + t, head, cache, keys + apart + tile, scales, position)
    for first in range(0, count, SHARED):
        shared = min(SHARED, count - first)
        attend_together(
            new, start + first, shared, head, length + first,
            cache, scales, keys, next_keys, next_used, apart, room, out,
        )  # fmt: skip


@compile_kernel
def attend_together(
    new: np.ndarray,
    start: int,
    count: int,
    head: int,
    length: int,
    cache: np.ndarray,
    scales: np.ndarray,
    keys: int,
    next_keys: int,
    next_used: int,
    apart: int,
    room: Room,
    out: np.ndarray,
) -> None:
    """As `attend_bytes` for up to SHARED tokens whose keys and values are stored."""
    is_wide = new.shape[3] % BLOCK == 0
    for t in range(count):
        begin(
            new, start + t, head, t, room.queries, room.factors, room.offsets, room.largest, room.totals, room.sums
        )  # fmt: skip
    tiles = (length + count - 1) // TILE + 1
    for n in range(tiles):
        tile, stored = keys + n, length + count - n * TILE
        ahead, ahead_used = (tile + 1, stored - TILE) if n + 1 < tiles else (next_keys, next_used)
        unit = relate(scales, tile + apart, min(TILE, stored), ahead, ahead + apart, room.ratios)
        first = max(0, n * TILE - length) // GROUP * GROUP
        while first < count:
            rows = GROUP if first + GROUP <= count else 1
            used = min(TILE, length + first + rows - n * TILE)
            blocks, steps = (used + BLOCK - 1) // BLOCK, (used + 3) // 4
            scored = (
                first, room.queries, room.offsets, cache, tile, ahead, ahead_used, scales, blocks, room.scores
            )  # fmt: skip
            if rows == 1:
                score(*scored)
            elif first == 0:
                score_first(*scored)
            else:
                score_group(*scored)
            for row in range(rows):
                for s in range(max(0, length + first + row + 1 - n * TILE), TILE):
                    room.scores[row, s] = HIDDEN
            weighed = (
                room.scores, first, room.factors, room.largest, room.totals, room.ratios, room.weights, room.shrinks
            )  # fmt: skip
            if rows == 1:
                weigh(*weighed)
            else:
                weigh_group(*weighed)
            added = (
                room.weights, room.shrinks, unit, cache, tile + apart, ahead + apart, ahead_used,
                steps, first, room.sums,
            )  # fmt: skip
            if rows == 1 and is_wide:
                add_values(*added)
            elif rows == 1:
                add_narrow_values(*added)
            elif not is_wide:
                add_narrow_group_values(*added)
            elif first == 0:
                add_first_values(*added)
            else:
                add_group_values(*added)
            first += rows
    for t in range(count):
        finish(t, room.totals, room.sums, out, start + t, head)
