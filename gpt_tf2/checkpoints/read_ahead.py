"""Reading a checkpoint's tensors in a thread, while something else keeps the main one busy, such as an import."""

import dataclasses
import math
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint

MOST = 1 << 30  # bytes that are read ahead: no more than any training takes anyway

Read = Future[tuple[np.ndarray, str]]


def read_ahead(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint, whose first tensors are being read and hashed from now on, in a thread.

    Such a tensor is handed out once, and read again if it is asked for again. Errors come where it is asked for.
    """
    ahead: dict[str, Read] = {}
    room = MOST
    with_digest = checkpoint.read_with_digest
    thread = ThreadPoolExecutor(1)
    for name, shape in checkpoint.shapes.items():
        room -= 4 * math.prod(shape)
        if room < 0:
            break
        ahead[name] = thread.submit(with_digest, name)
    thread.shutdown(wait=False)

    def read_hashed(name: str) -> tuple[np.ndarray, str]:
        reading = ahead.pop(name, None)
        return reading.result() if reading else with_digest(name)

    return dataclasses.replace(checkpoint, read=lambda name: read_hashed(name)[0], read_hashed=read_hashed)
