"""Tensors that are read before they are asked for."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints import read_ahead as module
from gpt_tf2.checkpoints.checkpoint import Checkpoint, hash_arrays
from gpt_tf2.checkpoints.formats import write_checkpoint
from gpt_tf2.checkpoints.opened import open_weights
from gpt_tf2.checkpoints.read_ahead import read_ahead
from gpt_tf2.errors import InputError
from helpers.exporting import write_wide_model

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


READ_ALL = """
import sys
from pathlib import Path
from gpt_tf2.checkpoints.opened import open_model
model = open_model(sys.argv[1])
ahead, before = model.read_ahead(), set(sys.modules)
for name in ahead.checkpoint.shapes:
    ahead.checkpoint.read(name)
print(ahead is not model, len(set(sys.modules) - before))
"""


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_what_is_read_in_a_thread_imports_nothing(suffix: str, tmp_path: Path) -> None:
    write_wide_model(tmp_path)
    path = tmp_path / f"copy{suffix}"
    config, checkpoint = open_weights(tmp_path)
    write_checkpoint(path, config, {name: checkpoint.read(name) for name in checkpoint.shapes})
    result = subprocess.run([sys.executable, "-c", READ_ALL, path], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "0"]
