"""Attention over a cache of bytes, on processors with an instruction for their products; see `byte_tiles.py`.

The softmax is taken tile by tile: sums and the total of weights shrink when a larger score comes (Milakov and
Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3).
"""

from typing import Any

import numpy as np

from gpt_tf2.backend.numba_kernels import compile_kernel
from gpt_tf2.decoding.kernels.byte_tiles import (
    BLOCK,
    GROUP,
    HIDDEN,
    ROOM_SIZE,
    SHARED,
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
from gpt_tf2.decoding.kernels.products import TILE
from gpt_tf2.decoding.kernels.vectors import CACHE_LINE
from gpt_tf2.decoding.kernels.work import end_phase, take_item


def make_byte_room(cache: np.ndarray) -> np.ndarray:
    """What a thread works in, float32, see ROOM; for a cache [L, B, 2, H, N, D·TILE].

    It begins with a line of the processor's cache.
    """
    depth = cache.shape[5] // TILE
    size = 4 * (ROOM_SIZE + 2 * SHARED * depth)
    memory = np.empty(size + CACHE_LINE, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE
    return memory[first : first + size].view(np.float32)


@compile_kernel
def attend_bytes(
    new: np.ndarray,
    start: int,
    count: int,
    shown: int,
    head: int,
    length: int,
    cache: np.ndarray,
    scales: np.ndarray,
    keys: int,
    next_keys: int,
    next_used: int,
    apart: int,
    room: np.ndarray,
    out: np.ndarray,
) -> None:
    """One head of one sequence with `length` cached positions and `count` new ones, of `new` and `out` from `start` on.

    Args:
        shown: of how many of the last new ones to compute it.
        new: float32 [T, 3, H, D], queries, keys and values. D must be a multiple of LANES, and is best one of BLOCK.
        cache: int8 [N, D·TILE], the tiles of all sequences and heads. scales: float32 [N, TILE], their scales.
        keys, next_keys: the first tile of the head's keys, and that of the head whose `next_used` positions come next.
        apart: tiles from those of keys to those of their values.
        room: of `make_room`. out: float32 [T, H, D].
    """
    for t in range(count):
        tile, position = (length + t) // TILE, (length + t) % TILE
        store_key(new, start + t, head, cache, keys + tile, scales, position)
        store_value(new, start + t, head, cache, keys + apart + tile, scales, position)
    for first in range(count - shown, count, SHARED):
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
    room: np.ndarray,
    out: np.ndarray,
) -> None:
    """As `attend_bytes` for up to SHARED tokens whose keys and values are stored."""
    is_wide = new.shape[3] % BLOCK == 0
    for t in range(count):
        begin(new, start + t, head, t, room)
    tiles = (length + count - 1) // TILE + 1
    for n in range(tiles):
        tile, stored = keys + n, length + count - n * TILE
        ahead, ahead_used = (tile + 1, stored - TILE) if n + 1 < tiles else (next_keys, next_used)
        unit = relate(scales, tile + apart, min(TILE, stored), ahead, ahead + apart, room)
        first = max(0, n * TILE - length) // GROUP * GROUP
        while first < count:
            rows = GROUP if first + GROUP <= count else 1
            used = min(TILE, length + first + rows - n * TILE)
            blocks, steps = (used + BLOCK - 1) // BLOCK, (used + 3) // 4
            scored = (first, cache, tile, ahead, ahead_used, scales, blocks, room)
            if rows == 1:
                score(*scored)
            elif first == 0:
                score_first(*scored)
            else:
                score_group(*scored)
            for row in range(rows):
                for s in range(max(0, length + first + row + 1 - n * TILE), TILE):
                    room[row * TILE + s] = HIDDEN
            if rows == 1:
                weigh(first, room)
            else:
                weigh_group(first, room)
            added = (first, cache, tile + apart, ahead + apart, ahead_used, unit, steps, room)
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
        finish(t, room, out, start + t, head)


def attend_to_bytes(
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
    tiles = cache.shape[3]
    every_tile, every_scale = cache.reshape(-1, cache.shape[4]), scales.reshape(-1, TILE)
    item = take_item(counters, phase, thread, threads, items)
    while item >= 0:
        head, sequence = item // sequences, item % sequences  # each thread gets all: their work differs
        following = min(item + 1, items - 1)
        next_head, next_sequence = following // sequences, following % sequences
        attend_bytes(
            new,
            firsts[sequence],
            counts[sequence],
            shown[sequence],
            head,
            lengths[sequence],
            every_tile,
            every_scale,
            (2 * sequence * heads + head) * tiles,
            (2 * next_sequence * heads + next_head) * tiles,
            lengths[next_sequence] + counts[next_sequence],
            heads * tiles,
            room,
            out,
        )
        done += 1
        item = take_item(counters, phase, thread, threads, items)
    end_phase(counters, phase, thread, threads, done, items)
