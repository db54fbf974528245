"""The whole network as one compiled function, which runs on all threads at once; see `work.py`.

Letters in shapes: B sequences, N new tokens of all of them, L blocks, W channels, H heads, D size of a head, V
tokens of the vocabulary, K inputs and M outputs of a matrix.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from gpt_tf2.backend.numba_kernels import compile_kernel
from gpt_tf2.decoding.kernels.attention import TILE, attend_head
from gpt_tf2.decoding.kernels.dense import FEW, multiply, prepare
from gpt_tf2.decoding.kernels.products import GROUP
from gpt_tf2.decoding.kernels.tiles import ADD, COLUMNS, GELU, WRITE
from gpt_tf2.decoding.kernels.work import count_numbers, end_phase, take_item

THREADS = numba.get_num_threads()
PHASES = 9  # of a block
HEAD_PHASES = 2


class Network(NamedTuple):
    """A network's weights. W is a multiple of COLUMNS and of D, so that the model's C channels may not fill it.

    norms: float32 [L, 2, 2, C], gain and bias of a block's two layer norms.
    final_norm: float32 [2, C].
    attention_in, attention_out, mlp_in, mlp_out: int8 or float32 [L, M / COLUMNS, K·COLUMNS], a block's matrices
        [W, 3·W], [W, W], [W, 4·C] and [4·C, W], packed; see `tiles.py`.
    head: the same of one matrix [W, V], V filled up to whole blocks.
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


def run_network(
    network: Network,
    x: np.ndarray,
    wpe: np.ndarray,
    counts: np.ndarray,
    shown: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
) -> np.ndarray:
    """Runs the network on new tokens of several sequences.

    Args:
        x: float32 [N, W], the tokens' embeddings, sequence by sequence. Becomes the last block's output.
        wpe: float32 [n_ctx, C], the positions' embeddings, which are added first; [0, C] if `x` has them.
        counts: int64 [B], how many new tokens each sequence has.
        shown: int64 [B], after how many of its last new tokens logits are wanted.
        lengths: int64 [B], how many positions of each are cached. There must be room for the new ones.
        cache: int8 or float32, as the matrices, [L, B, 2, H, tiles, D·TILE], keys and values. Changed in place.
        scales: float32 [L, B, 2, H, tiles, TILE]; see `attend` in `attention.py`. Changed in place.

    Returns:
        Float32 logits [wanted, V], sequence by sequence, V filled up to whole blocks.
    """
    rows, inner = len(x), max(x.shape[1], network.mlp_in_columns.shape[2])
    left = np.empty((THREADS if rows <= FEW else 1, rows * inner), "uint8" if cache.itemsize == 1 else "float32")
    counters = np.zeros(count_numbers(len(network.norms) * PHASES + HEAD_PHASES, THREADS), "int64")
    numba.set_num_threads(THREADS)
    return run_on_threads(network, x, wpe, counts, shown, lengths, cache, scales, left, counters, THREADS)


@compile_kernel(parallel=True)
def run_on_threads(
    network: Network,
    x: np.ndarray,
    wpe: np.ndarray,
    counts: np.ndarray,
    shown: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    left: np.ndarray,
    counters: np.ndarray,
    threads: int,
) -> np.ndarray:
    """As `run_network`.

    Args:
        left: uint8 or float32, room for the rows of a product, of FEW rows for each thread.
        counters: int64, zeros; see `count_numbers`.
    """
    rows, width, depth = len(x), x.shape[1], cache.shape[5] // TILE
    new = np.empty((rows, 3, width // depth, depth), np.float32)
    attended, hidden = (
        np.zeros((rows, width), np.float32),
        np.empty((rows, network.mlp_in_columns.shape[2]), np.float32),
    )
    factors = np.empty((len(left), rows, 2), np.float32)
    firsts, wanted = np.cumsum(counts) - counts, np.empty(shown.sum(), np.int64)
    logits, found = np.empty((len(wanted), network.head_columns.shape[2]), np.float32), 0
    for sequence in range(len(counts)):
        for t in range(counts[sequence]):
            row = firsts[sequence] + t
            if len(wpe):
                for i in range(wpe.shape[1]):
                    x[row, i] += wpe[lengths[sequence] + t, i]
            if t >= counts[sequence] - shown[sequence]:
                wanted[found] = row
                found += 1
    for thread in prange(threads):
        number = np.int64(thread)  # prange counts in unsigned integers
        own = number if rows <= FEW else 0
        run_share(
            network, x, counts, firsts, lengths, cache, scales, wanted, logits,
            left[own], factors[own], new, attended, hidden, counters, number, threads,
        )  # fmt: skip
    return logits


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
    """A thread's share of `run_on_threads`.

    Args:
        firsts: int64 [B], the index in `x` of each sequence's first token.
        wanted: int64, the rows of `x` after which `logits` are written.
        left, factors: see `prepare`.
        new: float32 [N, 3, W / D, D], attended: float32 [N, W], hidden: float32 [N, 4·C], room for what lies between.
    """
    rows, phase = len(x), 0
    every, no_norm = np.arange(rows), np.empty((0, 0), np.float32)
    projected, heads = new.reshape(rows, -1), attended.reshape(rows, new.shape[2], new.shape[3])
    for block in range(len(network.norms)):
        norms = network.norms[block]

        packed, columns = network.attention_in[block], network.attention_in_columns[block]
        ready = shape_left(left, rows, packed)
        prepare(x, every, norms[0], ready, factors, counters, phase, thread, threads)
        multiply(
            ready,
            factors,
            packed,
            columns,
            projected,
            WRITE,
            network.attention_out[block],
            counters,
            phase + 1,
            thread,
            threads,
        )

        attend(new, counts, firsts, lengths, cache[block], scales[block], heads, counters, phase + 2, thread, threads)

        packed, columns = network.attention_out[block], network.attention_out_columns[block]
        ready = shape_left(left, rows, packed)
        prepare(attended, every, no_norm, ready, factors, counters, phase + 3, thread, threads)
        multiply(ready, factors, packed, columns, x, ADD, network.mlp_in[block], counters, phase + 4, thread, threads)

        packed, columns = network.mlp_in[block], network.mlp_in_columns[block]
        ready = shape_left(left, rows, packed)
        prepare(x, every, norms[1], ready, factors, counters, phase + 5, thread, threads)
        multiply(
            ready, factors, packed, columns, hidden, GELU, network.mlp_out[block], counters, phase + 6, thread, threads
        )

        packed, columns = network.mlp_out[block], network.mlp_out_columns[block]
        upcoming = network.attention_in[block + 1] if block + 1 < len(network.norms) else network.head[0]
        ready = shape_left(left, rows, packed)
        prepare(hidden, every, no_norm, ready, factors, counters, phase + 7, thread, threads)
        multiply(ready, factors, packed, columns, x, ADD, upcoming, counters, phase + 8, thread, threads)
        phase += PHASES
    if len(wanted):
        packed, columns = network.head[0], network.head_columns[0]
        ready = shape_left(left, len(wanted), packed)
        prepare(x, wanted, network.final_norm, ready, factors, counters, phase, thread, threads)
        multiply(ready, factors, packed, columns, logits, WRITE, packed, counters, phase + 1, thread, threads)


@compile_kernel
def shape_left(left: np.ndarray, rows: int, packed: np.ndarray) -> np.ndarray:
    """The part of `left` that a product of so many rows takes, [rows, K]."""
    inner = packed.shape[1] // COLUMNS
    return left[: rows * inner].reshape(rows, inner)


@compile_kernel
def attend(
    new: np.ndarray,
    counts: np.ndarray,
    firsts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    out: np.ndarray,
    counters: np.ndarray,
    phase: int,
    thread: int,
    threads: int,
) -> None:
    """The attention of one block, into `out` [N, W / D, D]."""
    sequences = len(counts)
    items, done = sequences * cache.shape[2], 0
    weights = np.zeros((GROUP, TILE), np.float32)
    largest, totals = np.zeros(GROUP, np.float32), np.zeros(GROUP, np.float32)
    item = take_item(counters, phase, thread, threads, items)
    while item >= 0:
        head, sequence = item // sequences, item % sequences  # each thread gets all: their work differs
        following = min(item + 1, items - 1)
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
            cache[following % sequences, 0, following // sequences, 0],
            cache[following % sequences, 1, following // sequences, 0],
            weights,
            largest,
            totals,
            out,
        )
        done += 1
        item = take_item(counters, phase, thread, threads, items)
    end_phase(counters, phase, threads, done, items)
