"""Work for several processes."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import joblib

Result = TypeVar("Result")


def map_in_processes(function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """Yield `function(*arguments)` for each tuple of arguments, in order, computed by one process per core.

    Only a few arguments and results are held ahead of the one asked for.

    Example:
        >>> list(map_in_processes(pow, [(2, 3), (2, 4)]))
        [8, 16]
    """
    options = {"initializer": end_with_parent, "initargs": (os.getpid(),)}
    processes = joblib.Parallel(-1, batch_size=1, return_as="generator", max_nbytes=None, **options)
    yield from processes(joblib.delayed(function)(*values) for values in arguments)


def end_with_parent(parent: int) -> None:
    """End this process once its parent is gone: a parent that is killed cannot end its children."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
