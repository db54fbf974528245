"""Tensors that are read before they are asked for."""

import threading
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints import read_ahead as module
from gpt_tf2.checkpoints.checkpoint import Checkpoint, hash_arrays
from gpt_tf2.checkpoints.read_ahead import read_ahead
from gpt_tf2.errors import InputError

NAMES = ("a", "b", "c")
VALUES = {name: np.full((2, 3), i, "float32") for i, name in enumerate(NAMES)}


def test_tensors_come_from_a_thread_that_reads_them_at_once() -> None:
    threads, all_read = [], threading.Event()

    def read(name: str) -> np.ndarray:
        threads.append(threading.current_thread())
        if name == NAMES[-1]:
            all_read.set()
        return VALUES[name]

    checkpoint = read_ahead(Checkpoint(Path("x.h5"), dict.fromkeys(NAMES, (2, 3)), read))
    assert all_read.wait(60)
    for name in NAMES:
        values, digest = checkpoint.read_with_digest(name)
        assert values is VALUES[name] and digest == hash_arrays(values)
    assert threading.main_thread() not in threads and len(threads) == 3
    assert checkpoint.read("b") is VALUES["b"] and threads[3:] == [threading.main_thread()]


def test_what_is_too_large_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = {}

    def read(name: str) -> np.ndarray:
        threads[name] = threading.current_thread()
        return VALUES[name]

    monkeypatch.setattr(module, "MOST", 2 * 4 * 6)
    checkpoint = read_ahead(Checkpoint(Path("x.h5"), dict.fromkeys(NAMES, (2, 3)), read))
    assert all(checkpoint.read(name) is VALUES[name] for name in NAMES)
    assert [name for name in NAMES if threads[name] is threading.main_thread()] == ["c"]


def test_an_error_comes_with_its_tensor() -> None:
    def read(name: str) -> np.ndarray:
        if name == "b":
            raise InputError("x.h5: tensor b cannot be read: copy the file again")
        return VALUES[name]

    checkpoint = read_ahead(Checkpoint(Path("x.h5"), dict.fromkeys(NAMES, (2, 3)), read))
    assert checkpoint.read("a") is VALUES["a"] and checkpoint.read("c") is VALUES["c"]
    with pytest.raises(InputError, match="tensor b"):
        checkpoint.read("b")
