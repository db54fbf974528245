"""What lies between two attentions, compiled: layer norm, rounding to bytes, and products with packed matrices.

Letters in shapes: N rows, K inputs and M outputs of a matrix, C channels.
"""

import math

import numpy as np

from gpt_tf2.backend.numba_kernels import compile_kernel, f32, flip_if_negative
from gpt_tf2.decoding.kernels.products import ROUNDER
from gpt_tf2.decoding.kernels.tiles import ROWS, TILES, fetch_block, fetch_columns
from gpt_tf2.decoding.kernels.work import end_phase, take_item

FEW = 3  # rows: each thread prepares them for itself, which is shorter than waiting for another
PREPARED = 4  # rows that a thread prepares at a time
MULTIPLIED = 8 * ROWS  # rows that a thread multiplies at a time
BYTE_RANGE = f32(254.5)  # so that no number is above 255 when zero has been rounded
EPSILON = f32(1e-5)  # of layer norm

multiply_one, multiply_two, multiply_three, multiply_four, multiply_five, multiply_six = TILES


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
    zero = np.rint(-low * factor)
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
def multiply(
    left: np.ndarray,
    factors: np.ndarray,
    packed: np.ndarray,
    columns: np.ndarray,
    out: np.ndarray,
    use: int,
    following: np.ndarray,
    counters: np.ndarray,
    phase: int,
    thread: int,
    threads: int,
) -> None:
    """Multiplies prepared rows by a matrix and adds its bias; see `make_tile`.

    following: what is multiplied next, packed: its beginning is fetched while this thread waits.
    """
    parts = -(-len(left) // MULTIPLIED)
    items, done = parts * len(packed), 0
    item = take_item(counters, phase, thread, threads, items)
    while item >= 0:
        block, part = item // parts, item % parts
        row, last = part * MULTIPLIED, min((part + 1) * MULTIPLIED, len(left))
        while row < last:
            count = min(ROWS, last - row)
            fetch_columns(out, row, count, block)
            if count == 1:
                multiply_one(left, factors, row, packed, columns, block, out, use)
            elif count == 2:
                multiply_two(left, factors, row, packed, columns, block, out, use)
            elif count == 3:
                multiply_three(left, factors, row, packed, columns, block, out, use)
            elif count == 4:
                multiply_four(left, factors, row, packed, columns, block, out, use)
            elif count == 5:
                multiply_five(left, factors, row, packed, columns, block, out, use)
            else:
                multiply_six(left, factors, row, packed, columns, block, out, use)
            row += count
        done += 1
        item = take_item(counters, phase, thread, threads, items)
    if done:
        fetch_block(following, thread * len(following) // threads)
    end_phase(counters, phase, thread, threads, done, items)
