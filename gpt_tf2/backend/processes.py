"""Work for several processes."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import joblib

Result = TypeVar("Result")


def in_processes(function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """`function(*arguments)` of each, in their order, by as many processes as there are cores.

    Arguments are taken, and results held, a few ahead of what is asked for.
    """
    options = {"initializer": end_with, "initargs": (os.getpid(),)}
    processes = joblib.Parallel(-1, batch_size=1, return_as="generator", max_nbytes=None, **options)
    yield from processes(joblib.delayed(function)(*given) for given in arguments)


def end_with(parent: int) -> None:
    """Lets this process end when its parent is gone: one that is killed tells nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
