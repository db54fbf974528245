"""The sample of held-out tokens: written and read, and damaged in any way."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.data.batches import StreamWindows
from gpt_tf2.data.held_out import NAME, TOKENS, read_held_out, write_held_out

N_VOCAB = 300
STREAM = np.arange(3000) % N_VOCAB


def test_the_first_tokens_are_kept(tmp_path: Path) -> None:
    assert read_held_out(tmp_path, N_VOCAB) == (None, "")
    write_held_out(tmp_path, StreamWindows([STREAM], 32))
    tokens, damage = read_held_out(tmp_path, N_VOCAB)
    assert tokens.tolist() == STREAM[:TOKENS].tolist() and not damage
    assert np.array_equal(np.load(tmp_path / NAME), tokens)


def test_damaged_tokens_are_reported_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / NAME
    write_held_out(tmp_path, StreamWindows([STREAM], 32))
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(0, len(whole), 97)]
    damaged += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(0, len(whole), 41)]
    for content in [*damaged, whole + b"\0", whole * 2, b"\x93NUMPY" + b"(" * 5000]:
        path.write_bytes(content)
        tokens, damage = read_held_out(tmp_path, N_VOCAB)
        assert tokens is None and damage.startswith(f"{path}: damaged")


@pytest.mark.parametrize("tokens", [[0, N_VOCAB], [-1, 0], [], [1]])
def test_tokens_that_the_model_cannot_be_measured_on_are_not_used(tokens: list[int], tmp_path: Path) -> None:
    from gpt_tf2.data.held_out import encode

    (tmp_path / NAME).write_bytes(encode(np.array(tokens, "<i4")))
    assert read_held_out(tmp_path, N_VOCAB)[1]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_fifo_in_its_place_is_damage(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / NAME)
    assert read_held_out(tmp_path, N_VOCAB)[1]
