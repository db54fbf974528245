"""The attention over a cache of bytes against its definition."""

import numpy as np
import pytest

from gpt_tf2.backend.numba_kernels import compile_kernel
from gpt_tf2.decoding.kernels.byte_attention import attend_to_bytes, make_byte_room
from gpt_tf2.decoding.kernels.products import TILE
from gpt_tf2.decoding.kernels.vectors import HAS_TILES
from gpt_tf2.decoding.kernels.work import count_numbers

kernel, make_room = compile_kernel(attend_to_bytes), compile_kernel(make_byte_room)
pytestmark = pytest.mark.skipif(not HAS_TILES, reason="needs a processor that multiplies bytes")


def attend(new: np.ndarray, counts: list, lengths: list, cache: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """As `attend` in `attention.py`."""
    out = np.empty((len(new), *new.shape[2:]), "float32")
    firsts = np.cumsum(counts) - counts
    counters = np.zeros(count_numbers(1, 1), "int64")
    shown, room = np.array(counts), make_room(cache[None])
    kernel(new, np.array(counts), shown, firsts, np.array(lengths), cache, scales, room, out, counters, 0, 0, 1)
    return out


def make_cache(sequences: int, heads: int, tiles: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.zeros((sequences, 2, heads, tiles, depth * TILE), "int8"),
        np.full((sequences, 2, heads, tiles, TILE), 1e9, "float32"),  # what is not used must not matter
    )


def define_attention(new: np.ndarray) -> np.ndarray:
    """Causal attention of one sequence, [T, 3, H, D] → [T, H, D], in float64, to keys and values rounded to 8 bits."""
    query, key, value = new.astype("float64").transpose(1, 2, 0, 3)
    key, value = (np.rint(x / unit) * unit for x in (key, value) for unit in [abs(x).max(-1, keepdims=True) / 127])
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(new.shape[-1])
    scores[:, ~np.tri(len(new), dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ value).transpose(1, 0, 2)


@pytest.mark.parametrize(("heads", "depth"), [(2, 64), (3, 16)])
@pytest.mark.parametrize("spread", [0.01, 1.5, 3])
def test_attention_follows_its_definition(heads: int, depth: int, spread: float) -> None:
    """Two sequences of different lengths get 1 to 130 tokens at a time; one forgets a token, which is overwritten."""
    new = np.random.default_rng(depth).normal(0, spread, (2, 2 * TILE + 5, 3, heads, depth)).astype("float32")
    cache, scales = make_cache(2, heads, 3, depth)
    out = np.zeros((*new.shape[:2], heads, depth), "float32")
    lengths = np.array([0, 0])
    for counts in [(7, 1), (1, 3), (3, 4), (4, 1), (1, 130), (130, 1), (2, 5), (1, 1), (111, 113)]:
        steps = [new[i, lengths[i] : lengths[i] + count] for i, count in enumerate(counts)]
        attended = attend(np.concatenate(steps), list(counts), list(lengths), cache, scales)
        for i, part in enumerate(np.split(attended, counts[:1])):
            out[i, lengths[i] : lengths[i] + counts[i]] = part
        lengths = lengths + counts - [0, counts[1] == 5]
    assert lengths.tolist() == [260, 258]
    for i, length in enumerate(lengths):
        expected = define_attention(new[i, :length])
        assert np.abs(out[i, :length] - expected).max() < 2e-4 * np.abs(expected).max()
