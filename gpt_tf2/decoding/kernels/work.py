"""Threads that share the work of a kernel, phase by phase, without the system's help.

A phase is a number of items. Each thread takes those of its own share first, which lie beside each other in memory, and
then helps the others. When none is left, it waits until all are done. A thread that begins late, or never, holds up
nobody: the others take its items.
"""

import threading
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from gpt_tf2.backend.numba_kernels import compile_kernel

LONG_WAIT = 0.3  # of a run's time; alone on a machine a thread waits for a fiftieth
FIRST_PAUSE, LONGEST_PAUSE = 4, 64  # runs of the network with fewer threads
LINE = 8  # int64 numbers in a line of the processor's cache: no two counters share one


def count_numbers(phases: int, threads: int) -> int:
    """The size of the array of counters, int64 and zero, that a kernel of so many phases needs.

    The last LINE begins with the processor's cycles for which thread 0 has waited.
    """
    return (phases * (threads + 1) + 1) * LINE


@compile_kernel
def take_item(counters: np.ndarray, phase: int, thread: int, threads: int, items: int) -> int:
    """An item of a phase that no thread has taken; -1 if none is left."""
    for i in range(threads):
        owner = (thread + i) % threads
        first, last = owner * items // threads, (owner + 1) * items // threads
        place = (phase * (threads + 1) + owner) * LINE
        if counters[place] < last - first:
            item = first + add_to_counter(counters, place, 1)
            if item < last:
                return item
    return -1


@compile_kernel
def end_phase(counters: np.ndarray, phase: int, thread: int, threads: int, done: int, items: int) -> None:
    """Reports how many items a thread has done, and waits for the others."""
    report_done(counters, phase, threads, done)
    wait_for_others(counters, phase, thread, threads, items)


@compile_kernel
def report_done(counters: np.ndarray, phase: int, threads: int, done: int) -> None:
    """Reports how many items a thread has done."""
    if done:
        add_to_counter(counters, (phase * (threads + 1) + threads) * LINE, done)


@compile_kernel
def has_ended(counters: np.ndarray, phase: int, threads: int, items: int) -> bool:
    """Whether all items of a phase are done."""
    return read_counter(counters, (phase * (threads + 1) + threads) * LINE) >= items


@compile_kernel
def wait_for_others(counters: np.ndarray, phase: int, thread: int, threads: int, items: int) -> None:
    """Waits until all items of a phase are done."""
    if not has_ended(counters, phase, threads, items):
        began = read_clock()
        while not has_ended(counters, phase, threads, items):
            pause()
        if thread == 0:
            counters[len(counters) - LINE] += read_clock() - began


def make_add_to_counter(_: Any, counters: types.Array, place: Any, number: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [arguments[1]]), arguments[2], "acq_rel")

    return types.int64(counters, types.intp, types.int64), generate


def make_read_counter(_: Any, counters: types.Array, place: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(counters, types.intp), generate


def make_pause(_: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


def make_read_clock(_: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), generate


add_to_counter: Any = intrinsic(make_add_to_counter)  # returns the counter as it was before
read_counter: Any = intrinsic(make_read_counter)
pause: Any = intrinsic(make_pause)  # tells the processor that a thread waits
read_clock: Any = intrinsic(make_read_clock)  # the processor's cycles so far


class Crew:
    """How many threads share the work: fewer for a while after they have waited for each other.

    They do where other programs keep the processors busy: a thread that the system has taken off its processor holds up
    all. A quarter fewer are then faster. After a pause all threads are tried again; it doubles each time that they have
    to wait at once, so that a short disturbance costs little.

    Attributes:
        turn: held while a kernel runs on several threads, as other threads of Python go on meanwhile. Two at once would
            hold each other up, and one of Numba's thread pools ends the process.

    Example:
        >>> crew = Crew(4)
        >>> crew.report(waited=0.5)  # half of the time
        >>> crew.threads
        3
    """

    turn = threading.Lock()

    def __init__(self, most: int):
        self.threads = self._most = most
        self._pause, self._runs_left = FIRST_PAUSE, 0

    def report(self, waited: float, runs: int = 1) -> None:
        """Reports the share of the time that was spent waiting, in one run of the network or several."""
        if waited > LONG_WAIT and self.threads > 1:
            self.threads -= -(-self.threads // 4)
            self._runs_left, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        elif self.threads < self._most:
            self._runs_left -= runs
            if self._runs_left <= 0:
                self.threads = self._most
        else:
            self._pause = FIRST_PAUSE
