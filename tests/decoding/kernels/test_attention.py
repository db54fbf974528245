"""The compiled attention and its kernels against their definitions."""

import numpy as np
import pytest

from gpt_tf2.backend.numba_kernels import exponentiate, find_largest
from gpt_tf2.decoding.kernels.attention import attend
from gpt_tf2.decoding.kernels.products import TILE


def define_attention(new: np.ndarray) -> np.ndarray:
    """Causal attention of one sequence, [T, 3, H, D] → [T, H, D], in float64 (Vaswani et al. 2017, section 3.2.1)."""
    query, key, value = new.astype("float64").transpose(1, 2, 0, 3)
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(new.shape[-1])
    scores[:, ~np.tri(len(new), dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ value).transpose(1, 0, 2)


@pytest.mark.parametrize(("precision", "error"), [("float32", 3e-6), ("int8", 0.02)])
@pytest.mark.parametrize(("heads", "depth"), [(2, 64), (3, 12), (1, 5)])
def test_attention_follows_its_definition(precision: str, error: float, heads: int, depth: int) -> None:
    """Two sequences of different lengths get 1 to 130 tokens at a time; one forgets a token, which is overwritten."""
    draw = np.random.default_rng(depth)
    new = draw.normal(0, 1.5, (2, 2 * TILE + 5, 3, heads, depth)).astype("float32")
    tiles = 3
    cache = np.zeros((2, 2, heads, tiles, depth * TILE), precision)
    scales = np.zeros((2, 2, heads, tiles, TILE), "float32")
    out = np.zeros((*new.shape[:2], heads, depth), "float32")
    lengths = np.array([0, 0], "int32")
    for counts in [(7, 1), (1, 3), (3, 4), (4, 1), (1, 130), (130, 1), (2, 5), (1, 1), (111, 113)]:
        steps = [new[i, lengths[i] : lengths[i] + count] for i, count in enumerate(counts)]
        attended = attend(np.concatenate(steps), np.array(counts, "int32"), lengths, cache, scales)
        for i, part in enumerate(np.split(attended, counts[:1])):
            out[i, lengths[i] : lengths[i] + counts[i]] = part
        forgotten = np.array([0, counts[1] == 5], "int32")
        lengths = lengths + np.array(counts, "int32") - forgotten
    assert lengths.tolist() == [260, 258]
    for i, length in enumerate(lengths):
        expected = define_attention(new[i, :length])
        assert np.abs(out[i, :length] - expected).max() < error * np.abs(expected).max()


def test_exponentials_are_exact_to_rounding() -> None:
    x = np.linspace(-100, 0, 100003).astype("float32")
    computed = x.copy()
    exponentiate(computed, np.float32(0))
    exact = np.exp(x.astype("float64"))
    assert np.abs(computed / exact - 1)[exact > 2.0**-126].max() < 4e-6
    assert np.abs(computed / exact - 1)[x > -10].max() < 1.7e-6
    assert (computed[exact < 2.0**-127] == 0).all()
    extremes = np.array([-np.inf, 3, -1e30], "float32")
    exponentiate(extremes, np.float32(3))
    assert extremes.tolist() == [0, 1, 0]


def test_the_largest_is_numpys() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        x = draw.normal(draw.choice([-9, 0, 9]), 3, draw.integers(1, 99)).astype("float32")
        x[draw.random(len(x)) < 0.3] = -np.inf
        assert find_largest(x) == x.max()


def test_a_prompt_gets_the_same_from_an_int8_cache_in_one_step_as_in_many() -> None:
    """Where the processor can, many tokens are multiplied as 16-bit integers."""
    new = np.random.default_rng(0).normal(0, 2, (2 * TILE + 3, 3, 1, 64)).astype("float32")

    def attend_in_steps_of(size: int) -> np.ndarray:
        cache, scales = np.zeros((1, 2, 1, 3, 64 * TILE), "int8"), np.zeros((1, 2, 1, 3, TILE), "float32")
        steps = [(first, new[first : first + size]) for first in range(0, len(new), size)]
        counts = [(np.array([len(step)], "int32"), np.array([first], "int32"), step) for first, step in steps]
        return np.concatenate([attend(step, count, length, cache, scales) for count, length, step in counts])

    few, many = attend_in_steps_of(3), attend_in_steps_of(TILE)
    assert np.abs(many - few).max() < 5e-4 * np.abs(few).max()
