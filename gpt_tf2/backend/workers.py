"""Independent work for several devices, also of several processes, on JAX: each device has all weights and a share.

A thread serves each device of this process. Processes exchange nothing but values, by JAX's own collectives.
"""

import contextlib
import dataclasses
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from gpt_tf2.backend.choice import find_backend
from gpt_tf2.backend.devices import take_devices
from gpt_tf2.backend.starting import start_backend
from gpt_tf2.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Workers:
    """The devices of a run, each of which works alone.

    devices: JAX's devices in this process. None stands for the backend's default device.
    processes: how many processes the run has. number: of this one, from 0.
    """

    devices: tuple[Any, ...] = (None,)
    processes: int = 1
    number: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and shows progress."""
        return self.number == 0

    def describe(self) -> str:
        """A suffix for a decoder's name, such as `, 2 devices`; empty for one device."""
        count = len(self.devices) * self.processes
        return f", {count} devices" if count > 1 else ""

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's share of items: they are dealt in turn."""
        return items[self.number :: self.processes]

    def make_on_each(self, make: Callable[[], Result]) -> list[Result]:
        """What a function returns on each of this process's devices, which hold its arrays."""
        made = []
        for device in self.devices:
            with on_device(device):
                made.append(make())
        return made

    def run(
        self, functions: Sequence[Callable[[Iterator[Item]], Iterator[Result]]], items: Sequence[Item]
    ) -> Iterator[Result]:
        """Yields the results of this process's devices, in the order in which they come.

        Args:
            functions: one for each device, which it runs on. It takes items from an iterator that all devices share, so
                a fast one takes more, and yields any number of results.

        Example:
            >>> list(Workers().run([lambda numbers: (number**2 for number in numbers)], [1, 2, 3]))
            [1, 4, 9]
        """
        supply = Supply(items)
        if len(functions) == 1:
            yield from functions[0](supply)
            return
        results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()  # whether it is a result; or how it ended
        stopped = threading.Event()

        def work(function: Callable[[Iterator[Item]], Iterator[Result]], device: Any) -> None:
            try:
                with on_device(device):
                    for result in function(supply):
                        if stopped.is_set():
                            return
                        results.put((True, result))
                results.put((False, None))
            except BaseException as error:
                results.put((False, error))

        with ThreadPoolExecutor(len(functions)) as threads:
            try:
                for function, device in zip(functions, self.devices, strict=True):
                    threads.submit(work, function, device)
                running = len(functions)
                while running:
                    is_result, value = results.get()
                    if is_result:
                        yield value
                    elif value is not None:
                        raise value
                    else:
                        running -= 1
            finally:
                stopped.set()  # so that the threads end before their work does, if this one fails

    def exchange(self, value: Any) -> list[Any]:
        """The values that all processes give, in the order of their numbers. Waits until all have called it.

        value: a JSON value.

        Raises InputError if another process has ended.
        """
        if self.processes == 1:
            return [value]
        import jax
        from jax.experimental.multihost_utils import ProcessFailureError, live_devices, process_allgather

        data, devices = np.frombuffer(json.dumps(value).encode(), "uint8"), jax.devices()
        try:
            # A collective alone gives up after a while, or never, depending on the device; this wait ends with a death.
            with live_devices(devices) as alive:
                pass
            if len(alive) < len(devices):
                raise ProcessFailureError(set(devices) - set(alive))
            sizes = process_allgather(np.array(len(data)))
            rows = process_allgather(np.pad(data, (0, sizes.max() - len(data))))
        except (ProcessFailureError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0][:120]
            raise InputError(
                f"another process of this run has ended ({reason}); what is done is kept: start all processes again"
            ) from None
        return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


class Supply(Iterator[Item]):
    """An iterator that threads may share."""

    def __init__(self, items: Iterable[Item]):
        self._items, self._lock = iter(items), threading.Lock()

    def __next__(self) -> Item:
        with self._lock:
            return next(self._items)


def on_device(device: Any) -> contextlib.AbstractContextManager:
    """A context whose new arrays and computations are on a device of JAX, in this thread; None changes nothing."""
    if device is None:
        return contextlib.nullcontext()
    import jax

    return jax.default_device(device)


def find_workers(count: int | None) -> Workers:
    """The first `count` devices, each to work alone.

    Args:
        count: by default 1, or all devices if this run has several processes.

    Raises InputError if there are fewer; see `take_devices`.
    """
    if find_backend() != "jax" and (count or 1) == 1:
        return Workers()  # decoding on a CPU starts without TensorFlow
    start_backend()
    taken = take_devices(count)
    if find_backend() != "jax":
        return Workers()
    import jax

    local = [device for device in taken if device.process_index == jax.process_index()]
    return Workers(tuple(local) if len(local) > 1 else (None,), jax.process_count(), jax.process_index())
