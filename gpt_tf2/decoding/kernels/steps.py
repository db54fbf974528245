"""Many steps of the network in one call: each draws the tokens that the next one runs.

Between two steps nothing returns to Python, whose own memory the weights have displaced from the processor's caches.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import prange, types

from gpt_tf2.backend.numba_kernels import compile_kernel
from gpt_tf2.decoding.kernels.drawing import choose_token
from gpt_tf2.decoding.kernels.files import read_at
from gpt_tf2.decoding.kernels.network import (
    Batch,
    Network,
    array_kind,
    call_share,
    count_phases,
    find_share,
    list_kinds,
    make_batch,
)
from gpt_tf2.decoding.kernels.pointers import find_address, make_call
from gpt_tf2.decoding.kernels.tiles import FETCHED, fetch_block
from gpt_tf2.decoding.kernels.work import (
    LINE,
    Crew,
    count_numbers,
    end_phase,
    has_ended,
    read_clock,
    take_item,
)


class Draws(NamedTuple):
    """What to draw in S steps, for the N sequences that go on.

    choices: float64 [N, 4], the numbers of a `Choice` each.
    uniforms: float64 [N, S], in [0, 1).
    end: the steps end when this id is drawn.
    n_vocab: how many of the logits are of tokens.
    undrawn: int32, ids that are never drawn.
    room: float32 [threads, V], to work in, whose rows begin with lines of the processor's cache.
    tokens: int64 [N, S], written.
    wte: int64 [3], of the file of the tokens' embeddings: its descriptor, where its rows start, and a row's bytes.
    wpe: float32 [n_ctx, C], the positions' embeddings.
    missing: int64 [1], written: an id whose embedding the file lacks.
    """

    choices: np.ndarray
    uniforms: np.ndarray
    end: int
    n_vocab: int
    undrawn: np.ndarray
    room: np.ndarray
    tokens: np.ndarray
    wte: np.ndarray
    wpe: np.ndarray
    missing: np.ndarray


def run_steps(
    network: Network,
    draws: Draws,
    x: np.ndarray,
    counts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    room: np.ndarray,
    crew: Crew,
) -> None:
    """Runs steps until their end or that of a sequence, and writes the tokens that each draws.

    Args:
        counts: int64 [B], 1 for the sequences that go on, 0 for others.
        lengths: int64 [B], how many positions of each are cached. Changed.

    The other arguments are those of `run_network`.
    """
    threads = crew.threads
    phases = count_phases(network) + 1
    counters = np.zeros((draws.uniforms.shape[1], count_numbers(phases, threads)), "int64")
    numba.set_num_threads(threads)
    precision = str(cache.dtype)
    share, steps = find_share(precision), find_steps(precision)
    write_tokens(steps, share, network, draws, x, counts, lengths, cache, scales, room, counters, threads)
    waited, took = counters[:, -LINE].sum(), counters[0, 1 - LINE]
    crew.report(waited / max(1, took))


@functools.cache
def find_steps(precision: str) -> int:
    """The address of `run_steps_share` for a network of float32 or int8."""
    find_share(precision)  # which it calls
    floats, doubles, indices = array_kind("float32", 2), array_kind("float64", 2), array_kind("int64", 2)
    numbers = array_kind("int64", 1)
    fields = [
        doubles,
        doubles,
        types.int64,
        types.int64,
        array_kind("int32", 1),
        floats,
        indices,
        numbers,
        floats,
        numbers,
    ]
    draws = types.NamedTuple(fields, Draws)
    network, batch = list_kinds(precision)
    return find_address(run_steps_share, (types.int64, network, batch, draws, indices, types.int64, types.int64))


@compile_kernel
def run_steps_share(
    share: int, network: Network, batch: Batch, draws: Draws, counters: np.ndarray, thread: int, threads: int
) -> None:
    """A thread's share of all steps."""
    phase = np.int64(count_phases(network))
    running = np.flatnonzero(batch.counts)
    for step in range(draws.uniforms.shape[1]):
        call_share(share, (network, batch, counters[step], thread, threads))
        done, item = 0, take_item(counters[step], phase, thread, threads, len(running))
        while item >= 0:
            draw_next(batch, draws, running[item], item, step, thread)
            done += 1
            item = take_item(counters[step], phase, thread, threads, len(running))
        fetch_ahead(network.attention_in[0], counters[step], phase, thread, threads, done, len(running))
        end_phase(counters[step], phase, thread, threads, done, len(running))
        if draws.missing[0] >= 0 or (draws.tokens[:, step] == draws.end).any():
            return


@compile_kernel
def draw_next(batch: Batch, draws: Draws, sequence: int, row: int, step: int, thread: int) -> None:
    """Draws a sequence's next token, and reads its embedding for the step that runs it, if there is one."""
    logits, room = batch.logits[row, : draws.n_vocab], draws.room[thread, : draws.n_vocab]
    for id in draws.undrawn:
        logits[id] = -np.inf
    token = choose_token(logits, draws.choices[row], draws.uniforms[row, step], room)
    draws.tokens[row, step] = token
    batch.lengths[sequence] += 1
    if step + 1 < draws.uniforms.shape[1]:
        file, start, size = draws.wte
        x, channels = batch.x[row], draws.wpe.shape[1]
        if read_at(file, x, start + token * size, size) != size:
            draws.missing[0] = token
        for i in range(channels):
            x[i] += draws.wpe[batch.lengths[sequence], i]
        for i in range(channels, len(x)):
            x[i] = 0


@compile_kernel
def fetch_ahead(
    packed: np.ndarray, counters: np.ndarray, phase: int, thread: int, threads: int, done: int, items: int
) -> None:
    """Fetches a thread's share of a packed matrix while others are still at work."""
    flat = packed.reshape(-1)
    size = FETCHED // packed.itemsize
    parts = flat[: len(flat) // size * size].reshape(-1, size)
    for part in range(thread * len(parts) // threads, len(parts)):
        if has_ended(counters, phase, threads, items - done):
            return
        fetch_block(parts, part)


call_steps = make_call(run_steps_share)


@compile_kernel(parallel=True)
def run_steps_on_threads(
    steps: int, share: int, network: Network, batch: Batch, draws: Draws, counters: np.ndarray, threads: int
) -> None:
    """As `run_on_threads`; steps: the address of `run_steps_share`."""
    began = read_clock()
    for thread in prange(threads):
        call_steps(steps, (share, network, batch, draws, counters, np.int64(thread), threads))
    counters[0, counters.shape[1] - LINE + 1] = read_clock() - began


@compile_kernel
def write_tokens(
    steps: int,
    share: int,
    network: Network,
    draws: Draws,
    x: np.ndarray,
    counts: np.ndarray,
    lengths: np.ndarray,
    cache: np.ndarray,
    scales: np.ndarray,
    room: np.ndarray,
    counters: np.ndarray,
    threads: int,
) -> None:
    """As `run_steps`; see `run_steps_on_threads`."""
    batch = make_batch(network, x, draws.wpe, counts, counts, lengths, cache, scales, room, threads)
    run_steps_on_threads(steps, share, network, batch, draws, counters, threads)
