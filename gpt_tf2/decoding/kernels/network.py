"""The whole network as one compiled function, which runs on all threads at once; see `work.py`.

Letters in shapes: B sequences, N new tokens of all of them, C channels, L blocks, H heads, D size of a head, V tokens of
the vocabulary.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from gpt_tf2.backend.numba_kernels import compile_kernel
from gpt_tf2.decoding.kernels.attention import TILE, attend_head
from gpt_tf2.decoding.kernels.byte_attention import attend_bytes, make_room
from gpt_tf2.decoding.kernels.dense import FEW, multiply_and_add, multiply_and_gelu, multiply_and_write, prepare
from gpt_tf2.decoding.kernels.products import GROUP
from gpt_tf2.decoding.kernels.tiles import COLUMNS, HAS_TILES
from gpt_tf2.decoding.kernels.work import end_phase, take_item

PHASES = 9  # of a block
HEAD_PHASES = 2


class Network(NamedTuple):
    """A network's weights, ready for `run_network`. Blocks come first in all shapes.

    norms: float32 [L, 2, 2, C], gain and bias of a block's two layer norms.
    final_norm: float32 [2, C].
    attention_in, attention_out, mlp_in, mlp_out, head: int8 or float32 [L, M / COLUMNS, K·COLUMNS], a block's matrices
        [K, M], packed; see `tiles.py`. The head is of one layer.
    …_columns: float32 [L, 3, M]: each column's scale, the sum of its integers, and its bias.
    """

    norms: np.ndarray
    final_norm: np.ndarray
    attention_in: np.ndarray
    attention_in_columns: np.ndarray
    attention_out: np.ndarray
    attention_out_columns: np.ndarray
    mlp_in: np.ndarray
    mlp_in_columns: np.ndarray
    mlp_out: np.ndarray
    mlp_out_columns: np.ndarray
    head: np.ndarray
    head_columns: np.ndarray


@compile_kernel(parallel=True)
def run_network(
    network: Network,
    x: np.ndarray,
    counts: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    wanted: np.ndarray,
    logits: np.ndarray,
    left: np.ndarray,
    counters: np.ndarray,
    threads: int,
) -> None:
    """Runs the network on new tokens of several sequences.

    Args:
        x: float32 [N, C], the tokens' embeddings, sequence by sequence; becomes the last block's output.
        counts, firsts, lengths: int [B], of each sequence the number of new tokens, the first one's index in `x`, and
            how many positions are cached.
        cache, scales: as `attend` in `attention.py` takes them, of all blocks: [L, B, …].
        wanted: int [W], the rows of `x` after which logits are wanted.
        logits: float32 [W, V], written.
        left: of the matrices' type, [threads, room for N rows of 4·C].
        counters: int64 zeros.
    """
    rows, channels = x.shape
    heads = cache.shape[3]
    new = np.empty((rows, 3, heads, channels // heads), np.float32)
    attended, hidden = np.empty((rows, heads, channels // heads), np.float32), np.empty((rows, 4 * channels), np.float32)
    factors = np.empty((threads, rows, 2), np.float32)
    for thread in prange(threads):
        number = np.int64(thread)  # prange has unsigned integers
        own = number if rows <= FEW else 0
        run_share(
            network, x, counts, firsts, lengths, cache, scales, wanted, logits,
            left[own], factors[own], new, attended, hidden, counters, number, threads,
        )  # fmt: skip


@compile_kernel
def run_share(
    network: Network,
    x: np.ndarray,
    counts: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    wanted: np.ndarray,
    logits: np.ndarray,
    left: np.ndarray,
    factors: np.ndarray,
    new: np.ndarray,
    attended: np.ndarray,
    hidden: np.ndarray,
    counters: np.ndarray,
    thread: int,
    threads: int,
) -> None:
    """A thread's share of `run_network`."""
    rows, phase = len(x), 0
    every, wide, flat = np.arange(rows), new.reshape(rows, -1), attended.reshape(rows, -1)
    no_norm, room = np.empty((0, 0), np.float32), make_room(new.shape[3])
    for block in range(len(network.norms)):
        norms = network.norms[block]
        packed, columns = network.attention_in[block], network.attention_in_columns[block]
        ready = shape_left(left, rows, packed)
        prepare(x, every, norms[0], ready, factors, counters, phase, thread, threads)
        multiply_and_write(ready, factors, packed, columns, wide, counters, phase + 1, thread, threads)
        attend_share(
            new, counts, firsts, lengths, cache[block], scales[block], room,
            attended, counters, phase + 2, thread, threads,
        )  # fmt: skip
        packed, columns = network.attention_out[block], network.attention_out_columns[block]
        ready = shape_left(left, rows, packed)
        prepare(flat, every, no_norm, ready, factors, counters, phase + 3, thread, threads)
        multiply_and_add(ready, factors, packed, columns, x, counters, phase + 4, thread, threads)
        packed, columns = network.mlp_in[block], network.mlp_in_columns[block]
        ready = shape_left(left, rows, packed)
        prepare(x, every, norms[1], ready, factors, counters, phase + 5, thread, threads)
        multiply_and_gelu(ready, factors, packed, columns, hidden, counters, phase + 6, thread, threads)
        packed, columns = network.mlp_out[block], network.mlp_out_columns[block]
        ready = shape_left(left, rows, packed)
        prepare(hidden, every, no_norm, ready, factors, counters, phase + 7, thread, threads)
        multiply_and_add(ready, factors, packed, columns, x, counters, phase + 8, thread, threads)
        phase += 9
    if len(wanted):
        packed, columns = network.head[0], network.head_columns[0]
        ready = shape_left(left, len(wanted), packed)
        prepare(x, wanted, network.final_norm, ready, factors, counters, phase, thread, threads)
        multiply_and_write(ready, factors, packed, columns, logits, counters, phase + 1, thread, threads)


@compile_kernel
def shape_left(left: np.ndarray, rows: int, packed: np.ndarray) -> np.ndarray:
    """The part of `left` that a product of so many rows takes, [rows, K]."""
    inner = packed.shape[1] // COLUMNS
    return left[: rows * inner].reshape(rows, inner)


@compile_kernel
def attend_share(new, counts, firsts, lengths, cache, scales, room, out, counters, phase, thread, threads):
    sequences = len(counts)
    heads, items, done = new.shape[2], sequences * new.shape[2], 0
    weights = np.zeros((GROUP, TILE), np.float32)
    largest, totals = np.zeros(GROUP, np.float32), np.zeros(GROUP, np.float32)
    tiles = cache.shape[3]
    every_tile, every_scale = cache.reshape(-1, cache.shape[4]), scales.reshape(-1, TILE)
    item = take_item(counters, phase, thread, threads, items)
    while item >= 0:
        head, sequence = item // sequences, item % sequences
        following = min(item + 1, items - 1)
        next_head, next_sequence = following // sequences, following % sequences
        if HAS_TILES and cache.itemsize == 1:
            attend_bytes(
                new,
                firsts[sequence],
                counts[sequence],
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
        else:
            attend_head(
                new,
                firsts[sequence],
                counts[sequence],
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
    end_phase(counters, phase, threads, done, items)
