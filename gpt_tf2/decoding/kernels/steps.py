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
    PRECISIONS,
    Addresses,
    Batch,
    Inputs,
    Network,
    array_kind,
    call_share,
    count_phases,
    find_attention,
    find_share,
    inputs_kind,
    list_kinds,
    make_batch,
)
from gpt_tf2.decoding.kernels.pointers import Kinds, find_address, make_call
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


NO_DRAWS = Draws(  # in one step; nothing writes to it
    np.zeros((0, 4)), np.zeros((0, 1)), -1, 0, np.zeros(0, "int32"), np.zeros((0, 0), "float32"),
    np.zeros((0, 1), "int64"), np.zeros(3, "int64"), np.full(1, -1),
)  # fmt: skip


def run_network(network: Network, inputs: Inputs, crew: Crew) -> np.ndarray:
    """Runs the network on new tokens of several sequences: a step that draws nothing.

    Args:
        crew: decides how many threads run, and learns how long they waited.

    Returns:
        Float32 logits [wanted, V], sequence by sequence, V filled up to whole blocks.
    """
    return run_steps(network, NO_DRAWS, inputs, crew)


def run_steps(network: Network, draws: Draws, inputs: Inputs, crew: Crew) -> np.ndarray:
    """Runs steps until their end or that of a sequence, and writes the tokens that each draws.

    Args:
        inputs: where something is drawn, `counts` and `shown` are 1 for the sequences that go on, 0 for others.
            `lengths` is changed.
        crew: see `run_network`.

    Returns:
        The last step's logits; see `run_network`. Where something is drawn, -inf for ids without a token.
    """
    threads = crew.threads
    phases = count_phases(network) + 1
    counters = np.zeros((draws.uniforms.shape[1], count_numbers(phases, threads)), "int64")
    numba.set_num_threads(threads)
    addresses = find_addresses(str(inputs.cache.dtype))
    with crew.turn:
        logits = write_tokens(addresses, network, draws, inputs, counters, threads)
    waited, took = counters[:, -LINE].sum(), counters[0, 1 - LINE]
    crew.report(waited / max(1, took), draws.tokens.shape[1])
    return logits


@functools.cache
def find_addresses(precision: str) -> Addresses:
    """The addresses of the kernels for a network of float32 or int8."""
    return Addresses(find_attention(precision), find_share(precision), find_choose(), find_run(precision))


@functools.cache
def find_choose() -> int:
    """The address of `choose_token`."""
    return find_address(choose_token, choose_kinds(), types.int64)


def choose_kinds() -> Kinds:
    """Numba's types of what `choose_token` takes."""
    floats = array_kind("float32", 1)
    return floats, array_kind("float64", 1), types.float64, floats


call_choose = make_call(choose_token, types.int64, lambda: [choose_kinds()])


@functools.cache
def find_run(precision: str) -> int:
    """The address of `run_steps_share` for a network of float32 or int8."""
    return find_address(run_steps_share, run_kinds(precision), types.none)


def run_kinds(precision: str) -> Kinds:
    """Numba's types of what `run_steps_share` takes."""
    integer, integers, tokens = types.int64, array_kind("int64", 1), array_kind("int64", 2)
    floats, doubles = array_kind("float32", 2), array_kind("float64", 2)
    fields = [doubles, doubles, integer, integer, array_kind("int32", 1), floats, tokens, integers, integers]
    addresses, draws = types.NamedUniTuple(integer, len(Addresses._fields), Addresses), types.NamedTuple(fields, Draws)
    return addresses, *list_kinds(precision), draws, tokens, integer, integer


@compile_kernel
def run_steps_share(
    addresses: Addresses,
    network: Network,
    batch: Batch,
    draws: Draws,
    counters: np.ndarray,
    thread: int,
    threads: int,
) -> None:
    """A thread's share of all steps."""
    phase = np.int64(count_phases(network))
    running, drawn = np.flatnonzero(batch.counts), len(draws.choices)
    for step in range(draws.uniforms.shape[1]):
        call_share(addresses.share, (addresses.attention, network, batch, counters[step], thread, threads))
        done, item = 0, take_item(counters[step], phase, thread, threads, drawn)
        while item >= 0:
            draw_next(addresses.choose, batch, draws, running[item], item, step, thread)
            done += 1
            item = take_item(counters[step], phase, thread, threads, drawn)
        report_done(counters[step], phase, threads, done)
        fetch_ahead(network.attention_in[0], counters[step], phase, thread, threads, drawn)
        wait_for_others(counters[step], phase, thread, threads, drawn)
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


call_run = make_call(run_steps_share, types.none, lambda: [run_kinds(precision) for precision in PRECISIONS])


@compile_kernel(parallel=True)
def run_on_threads(
    addresses: Addresses, network: Network, batch: Batch, draws: Draws, counters: np.ndarray, threads: int
) -> None:
    """Runs the steps on all threads, and counts the processor's cycles that they took.

    counters: int64 [S, any], zeros; see `count_numbers`.
    """
    began = read_clock()
    for thread in prange(threads):
        arguments = addresses, network, batch, draws, counters, np.int64(thread), threads  # prange's are unsigned
        call_run(addresses.run, arguments)
    counters[0, counters.shape[1] - LINE + 1] = read_clock() - began


@compile_kernel
def write_tokens(
    addresses: Addresses, network: Network, draws: Draws, inputs: Inputs, counters: np.ndarray, threads: int
) -> np.ndarray:
    """As `run_steps`; see `run_on_threads`."""
    batch = make_batch(network, inputs, threads)
    run_on_threads(addresses, network, batch, draws, counters, threads)
    return batch.logits


def compile_network(precision: str) -> None:
    """Compiles what runs a network of float32 or int8, if it is not kept."""
    find_attention(precision)
    find_share(precision)


def compile_steps(precision: str) -> None:
    """Compiles what runs steps of such a network, if it is not kept."""
    find_choose()
    find_run(precision)
    addresses, network, _, draws, counters, *_ = run_kinds(precision)
    write_tokens.compile((addresses, network, draws, inputs_kind(precision), counters, types.int64))
