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
    Inputs,
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
    has_ended,
    read_clock,
    report_done,
    take_item,
    wait_for_others,
)

call_choose = make_call(choose_token)


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
    missing: int64 [1], written: an id whose embedding the file lacks; -1 before.
    """

    choices: np.ndarray
    uniforms: np.ndarray
    end: int
    n_vocab: int
    undrawn: np.ndarray
    room: np.ndarray
    tokens: np.ndarray
    wte: np.ndarray
    missing: np.ndarray


def run_steps(network: Network, draws: Draws, inputs: Inputs, crew: Crew) -> None:
    """Runs steps until their end or that of a sequence, and writes the tokens that each draws. See `run_network`.

    Args:
        inputs: `counts` and `shown` are 1 for the sequences that go on, 0 for others. `lengths` is changed.
    """
    threads = crew.threads
    phases = count_phases(network) + 1
    counters = np.zeros((draws.uniforms.shape[1], count_numbers(phases, threads)), "int64")
    numba.set_num_threads(threads)
    precision = str(inputs.cache.dtype)
    addresses = find_choose(), find_share(precision), find_run(precision)
    with crew.turn:
        write_tokens(*addresses, network, draws, inputs, counters, threads)
    waited, took = counters[:, -LINE].sum(), counters[0, 1 - LINE]
    crew.report(waited / max(1, took), draws.tokens.shape[1])


@functools.cache
def find_choose() -> int:
    """The address of `choose_token`."""
    floats = array_kind("float32", 1)
    return find_address(choose_token, (floats, array_kind("float64", 1), types.float64, floats))


@functools.cache
def find_run(precision: str) -> int:
    """The address of `run_steps_share` for a network of float32 or int8."""
    find_choose()
    find_share(precision)  # as it calls both
    integer, integers, tokens = types.int64, array_kind("int64", 1), array_kind("int64", 2)
    floats, doubles = array_kind("float32", 2), array_kind("float64", 2)
    fields = [doubles, doubles, integer, integer, array_kind("int32", 1), floats, tokens, integers, integers]
    network, batch = list_kinds(precision)
    draws = types.NamedTuple(fields, Draws)
    return find_address(run_steps_share, (integer, integer, network, batch, draws, tokens, integer, integer))


@compile_kernel
def run_steps_share(
    choose: int,
    share: int,
    network: Network,
    batch: Batch,
    draws: Draws,
    counters: np.ndarray,
    thread: int,
    threads: int,
) -> None:
    """A thread's share of all steps.

    choose, share: the addresses of `choose_token` and `run_share`.
    """
    phase = np.int64(count_phases(network))
    running = np.flatnonzero(batch.counts)
    for step in range(draws.uniforms.shape[1]):
        call_share(share, (network, batch, counters[step], thread, threads))
        done, item = 0, take_item(counters[step], phase, thread, threads, len(running))
        while item >= 0:
            draw_next(choose, batch, draws, running[item], item, step, thread)
            done += 1
            item = take_item(counters[step], phase, thread, threads, len(running))
        report_done(counters[step], phase, threads, done)
        fetch_ahead(network.attention_in[0], counters[step], phase, thread, threads, len(running))
        wait_for_others(counters[step], phase, thread, threads, len(running))
        if draws.missing[0] >= 0 or (draws.tokens[:, step] == draws.end).any():
            return


@compile_kernel
def draw_next(choose: int, batch: Batch, draws: Draws, sequence: int, row: int, step: int, thread: int) -> None:
    """Draws a sequence's next token, and reads its embedding for the step that runs it, if there is one."""
    logits, room = batch.logits[row, : draws.n_vocab], draws.room[thread, : draws.n_vocab]
    for id in draws.undrawn:
        logits[id] = -np.inf
    token = call_choose(choose, (logits, draws.choices[row], draws.uniforms[row, step], room))
    draws.tokens[row, step] = token
    batch.lengths[sequence] += 1
    if step + 1 < draws.uniforms.shape[1]:
        file, start, size = draws.wte
        x, channels = batch.x[row], batch.wpe.shape[1]
        if read_at(file, x, start + token * size, size) != size:
            draws.missing[0] = token
        for i in range(channels):
            x[i] += batch.wpe[batch.lengths[sequence], i]
        for i in range(channels, len(x)):
            x[i] = 0


@compile_kernel
def fetch_ahead(packed: np.ndarray, counters: np.ndarray, phase: int, thread: int, threads: int, items: int) -> None:
    """Fetches a thread's share of a packed matrix while others are still at work."""
    flat = packed.reshape(-1)
    size = FETCHED // packed.itemsize
    parts = flat[: len(flat) // size * size].reshape(-1, size)
    for part in range(thread * len(parts) // threads, (thread + 1) * len(parts) // threads):
        if has_ended(counters, phase, threads, items):
            return
        fetch_block(parts, part)


call_run = make_call(run_steps_share)


@compile_kernel(parallel=True)
def run_steps_on_threads(
    choose: int,
    share: int,
    run: int,
    network: Network,
    batch: Batch,
    draws: Draws,
    counters: np.ndarray,
    threads: int,
) -> None:
    """As `run_on_threads`.

    choose, share, run: the addresses of `choose_token`, `run_share` and `run_steps_share`.
    """
    began = read_clock()
    for thread in prange(threads):
        call_run(run, (choose, share, network, batch, draws, counters, np.int64(thread), threads))
    counters[0, counters.shape[1] - LINE + 1] = read_clock() - began


@compile_kernel
def write_tokens(
    choose: int,
    share: int,
    run: int,
    network: Network,
    draws: Draws,
    inputs: Inputs,
    counters: np.ndarray,
    threads: int,
) -> None:
    """As `run_steps`; see `run_steps_on_threads`."""
    batch = make_batch(network, inputs, threads)
    run_steps_on_threads(choose, share, run, network, batch, draws, counters, threads)
