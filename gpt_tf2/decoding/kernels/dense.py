"""What lies between two attentions, compiled: layer norm, rounding to bytes, and products with packed matrices.

Letters in shapes: N rows, K inputs and M outputs of a matrix, C channels.
"""

import math
from typing import Any

import numpy as np
from numba.extending import overload

from gpt_tf2.backend.numba_kernels import JIT_OPTIONS, compile_kernel, f32, flip_if_negative
from gpt_tf2.decoding.kernels.products import ROUNDER
from gpt_tf2.decoding.kernels.tiles import (
    FEWER_ROWS,
    FRACTION,
    READING_TILE,
    ROWS,
    TILES,
    WRITING_TILE,
    Product,
    fetch_block,
    fetch_targets,
)
from gpt_tf2.decoding.kernels.vectors import AHEAD, FETCHES
from gpt_tf2.decoding.kernels.work import end_phase, take_item

FEW = 3  # rows: each thread prepares them for itself, which is shorter than waiting for another
PREPARED = 4  # rows that a thread prepares at a time
MULTIPLIED = 8 * ROWS  # rows that a thread multiplies at a time
MANY = 2 * ROWS  # rows from which on a block's weights are kept as float32
WHOLE = 1 << FRACTION  # share of a block
AHEAD_SHARE = WHOLE if FETCHES else 0
OPTIONS: Any = JIT_OPTIONS
BYTE_RANGE = f32(254.5)  # so that no number is above 255 when zero has been rounded
EPSILON = f32(1e-5)  # of layer norm

multiply_one, multiply_two, multiply_three, multiply_four, multiply_five, multiply_six = TILES
multiply_and_write, read_and_multiply = WRITING_TILE, READING_TILE


@compile_kernel
def prepare(
    rows: np.ndarray,
    chosen: np.ndarray,
    norm: np.ndarray,
    left: np.ndarray,
    factors: np.ndarray,
    counters: np.ndarray,
    phase: int,
    thread: int,
    threads: int,
) -> None:
    """Makes rows ready for a product: normalizes and rounds them.

    Args:
        rows: float32 [any, K].
        chosen: int64 [N], the indices of those that are prepared.
        norm: float32 [2, K], gain and bias of a layer norm; [0, K] for none.
        left: int8 (of unsigned bytes) or float32 [N, K], written. Of FEW rows, each thread's own.
        factors: float32 [N, 2], written: a row's scale and zero point.
    """
    if len(chosen) <= FEW:
        for i in range(len(chosen)):
            prepare_row(rows[chosen[i]], norm, left[i], factors[i])
        return
    items, done = -(-len(chosen) // PREPARED), 0
    item = take_item(counters, phase, thread, threads, items)
    while item >= 0:
        for i in range(item * PREPARED, min((item + 1) * PREPARED, len(chosen))):
            prepare_row(rows[chosen[i]], norm, left[i], factors[i])
        done += 1
        item = take_item(counters, phase, thread, threads, items)
    end_phase(counters, phase, thread, threads, done, items)


@compile_kernel
def prepare_row(row: np.ndarray, norm: np.ndarray, left: np.ndarray, factors: np.ndarray) -> None:
    """As `prepare`, one row. A norm may be of its first numbers only; the others become zero."""
    size = norm.shape[1] if len(norm) else len(row)
    scale, shift = f32(1), f32(0)  # of its normalization
    for i in range(size, len(left)):
        left[i] = 0
    if len(norm):
        total, squares = f32(0), f32(0)
        for i in range(size):
            total += row[i]
        shift = total / f32(size)
        for i in range(size):
            difference = row[i] - shift
            squares += difference * difference
        scale = f32(1) / f32(math.sqrt(squares / f32(size) + EPSILON))
    if left.itemsize == 4:
        for i in range(size):
            left[i] = (row[i] - shift) * scale * norm[0, i] + norm[1, i] if len(norm) else row[i]
        return
    values = np.empty(size, np.float32)
    for i in range(size):
        values[i] = (row[i] - shift) * scale * norm[0, i] + norm[1, i] if len(norm) else row[i]
    low, high = find_range(values)
    width = max(high - low, f32(1e-30))
    factor = BYTE_RANGE / width
    zero = np.rint(-low * factor + f32(1e-3))  # so that no number is below 0, however products are rounded
    for i in range(size):
        left[i] = f32(values[i] * factor + zero + ROUNDER).view(np.int32)  # its low byte
    factors[0], factors[1] = width / BYTE_RANGE, zero


@compile_kernel
def find_range(values: np.ndarray) -> tuple[np.float32, np.float32]:
    """The least and the largest of float32 [N] and zero, compared as in `find_largest`."""
    bits, least, most = values.view(np.int32), np.int32(0), np.int32(0)
    for i in range(len(bits)):
        least = min(least, flip_if_negative(bits[i]))
        most = max(most, flip_if_negative(bits[i]))
    return np.int32(flip_if_negative(least)).view(np.float32), np.int32(most).view(np.float32)


@compile_kernel
def multiply(product: Product, counters: np.ndarray, phase: int, thread: int, threads: int) -> None:
    """A thread's share of a product with prepared rows. What is multiplied next is fetched while the thread waits."""
    rows, blocks, following = len(product.left), len(product.packed), product.following
    parts = -(-rows // MULTIPLIED)
    items, done = parts * blocks, 0
    first_following = thread * len(following) // threads
    held: Any = np.int64(-1)  # not a literal, whose type would change
    item = take_item(counters, phase, thread, threads, items)
    while item >= 0:
        block, part = item // parts, item % parts
        is_last = (block + 1) * parts >= (thread + 1) * items // threads
        upcoming = find_block(following, first_following) if is_last else find_block(product.packed, block + 1)
        row, last = part * MULTIPLIED, min((part + 1) * MULTIPLIED, rows)
        held = multiply_part(product, row, last, block, upcoming, held)
        done += 1
        item = take_item(counters, phase, thread, threads, items)
    if done:
        fetch_block(following, first_following)
    end_phase(counters, phase, thread, threads, done, items)


@compile_kernel
def find_block(packed: np.ndarray, block: int) -> int:
    """The address of a block of a packed matrix, int8 or uint8 [blocks, bytes]."""
    return packed.ctypes.data + block * packed.shape[1]


def multiply_part(product: Product, first: int, last: int, block: int, upcoming: int, held: int) -> int:
    """Multiplies the rows from `first` to `last` by a block, for kernels.

    Args:
        upcoming: the address of the block that is multiplied next.
        held: the block whose weights are in the room.

    Returns:
        The block whose weights are in the room then.
    """
    raise NotImplementedError


@overload(multiply_part, jit_options=OPTIONS)
def choose_multiplication(product: Product, first: int, last: int, block: int, upcoming: int, held: int) -> Any:
    """The function that Numba compiles for it: the arguments are types here."""
    return multiply_bytes if is_in_bytes(product[0]) else multiply_floats


def is_in_bytes(array: Any) -> bool:
    """Of an array's type."""
    return array.dtype.bitwidth == 8


def multiply_bytes(product: Product, first: int, last: int, block: int, upcoming: int, held: int) -> int:
    """As `multiply_part`, in int8."""
    row, ahead = first, find_block(product.packed, block) + AHEAD
    share = WHOLE if len(product.left) == 1 else AHEAD_SHARE  # for one row it pays on any processor
    while row < last:
        count = min(ROWS, last - row)
        fetch_targets(product, row, count, block)
        if count == ROWS:
            multiply_six(product, row, block, ahead, share)
        else:
            multiply_few(product, row, count, block, ahead, share)
        row += count
    return held


def multiply_floats(product: Product, first: int, last: int, block: int, upcoming: int, held: int) -> int:
    """As `multiply_part`, in float32.

    Of many rows, the first ones leave the block's weights in the room for the others, and each few fetch a part of the
    next block: this one soon is in the processor's caches, and the memory would be idle.
    """
    row, size, is_many = first, product.packed.shape[1], len(product.left) >= MANY
    ahead, share = find_block(product.packed, block) + AHEAD, AHEAD_SHARE
    while row < last:
        count = min(ROWS if is_many and held == block else FEWER_ROWS, last - row)
        if is_many:
            ahead = upcoming + size * (row - first) // (last - first)
            share = (count << FRACTION) // (last - first)
        fetch_targets(product, row, count, block)
        if count == ROWS:
            read_and_multiply(product, row, block, ahead, share)
        elif count == FEWER_ROWS and is_many and held != block:
            multiply_and_write(product, row, block, ahead, share)
            held = block
        else:
            multiply_few(product, row, count, block, ahead, share)
        row += count
    return held


@compile_kernel
def multiply_few(product: Product, row: int, count: int, block: int, ahead: int, share: int) -> None:
    """Multiplies up to FEWER_ROWS rows by a block."""
    if count == 1:
        multiply_one(product, row, block, ahead, share)
    elif count == 2:
        multiply_two(product, row, block, ahead, share)
    elif count == 3:
        multiply_three(product, row, block, ahead, share)
    elif count == 4:
        multiply_four(product, row, block, ahead, share)
    else:
        multiply_five(product, row, block, ahead, share)
