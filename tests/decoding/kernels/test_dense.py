"""What lies between two attentions, against NumPy in float64."""

import keras
import numpy as np
import pytest

from gpt_tf2.decoding.kernels.dense import MULTIPLIED, multiply, prepare
from gpt_tf2.decoding.kernels.tiles import ADD, GELU, WRITE, Product
from gpt_tf2.decoding.kernels.vectors import COLUMNS, HAS_TILES
from gpt_tf2.decoding.kernels.work import count_numbers
from gpt_tf2.decoding.native.packing import pack

pytestmark = pytest.mark.skipif(not HAS_TILES, reason="this processor lacks the instructions")
ROW_COUNTS = [1, 2, 3, 4, 5, 6, 7, 13, MULTIPLIED + 5]


def prepare_rows(rows: np.ndarray, norm: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows [N, K] as `prepare` makes them: with their factors."""
    left, factors = (
        np.empty(rows.shape, precision),
        np.empty((len(rows), 2), "float32"),
    )
    counters = np.zeros(count_numbers(1, 1), "int64")
    prepare(rows, np.arange(len(rows)), norm, left, factors, counters, 0, 0, 1)
    return left, factors


def as_numbers(left: np.ndarray) -> np.ndarray:
    """Prepared rows as float64: their bytes are unsigned."""
    return left.view("uint8" if left.dtype == "int8" else left.dtype).astype("float64")


@pytest.mark.parametrize("count", ROW_COUNTS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_products_are_those_of_the_rounded_matrices(precision: str, count: int) -> None:
    draw = np.random.default_rng(count)
    rows, matrix = (
        draw.normal(0, 3, (count, 132)).astype("float32"),
        draw.normal(0, 1, (132, 2 * COLUMNS)).astype("float32"),
    )
    bias, out = (
        draw.normal(0, 1, 2 * COLUMNS).astype("float32"),
        draw.normal(0, 1, (count, 2 * COLUMNS)).astype("float32"),
    )
    packed, columns = pack(matrix.T, bias, precision)
    left, factors = prepare_rows(rows, np.empty((0, 0), "float32"), precision)
    exact_rows, exact = as_numbers(left), matrix.astype("float64")
    if precision == "int8":
        exact_rows = (exact_rows - factors[:, 1:]) * factors[:, :1]
        exact = np.rint(matrix / columns[0]) * columns[0].astype("float64")
    expected = exact_rows @ exact + bias
    room, error = np.empty(132 * COLUMNS, "float32"), 2e-6 * np.abs(expected).max()
    wanted = {
        WRITE: expected,
        ADD: out + expected,
        GELU: np.asarray(keras.activations.gelu(expected, approximate=True)),
    }
    for use, values in wanted.items():
        computed, counters = out.copy(), np.zeros(count_numbers(1, 1), "int64")
        product = Product(left, factors, packed, columns, computed, np.arange(count), use, packed, room)
        multiply(product, counters, 0, 0, 1)
        np.testing.assert_allclose(computed, values, rtol=0, atol=error)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_rows_are_rounded_within_half_a_step_and_zero_exactly(scale: float) -> None:
    rows = np.random.default_rng(0).normal(0.3, 1, (5, 64)).astype("float32") * np.float32(scale)
    rows[1], rows[2, 3], rows[3] = 0, 0, np.abs(rows[3])
    left, factors = prepare_rows(rows, np.empty((0, 0), "float32"), "int8")
    rounded = (as_numbers(left) - factors[:, 1:]) * factors[:, :1]
    assert (np.abs(rounded - rows) <= 0.501 * factors[:, :1]).all()
    assert not rounded[1].any() and rounded[2, 3] == 0


def test_a_layer_norm_is_that_of_its_channels_and_leaves_the_others_zero() -> None:
    draw = np.random.default_rng(0)
    rows, norm = draw.normal(5, 3, (9, 64)).astype("float32"), draw.normal(1, 1, (2, 48)).astype("float32")
    left, _ = prepare_rows(rows, norm, "float32")
    used = rows[:, :48].astype("float64")
    normal = (used - used.mean(1, keepdims=True)) / np.sqrt(used.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(left[:, :48], normal * norm[0] + norm[1], atol=1e-5)
    assert not left[:, 48:].any()


def test_the_least_of_a_row_is_not_rounded_to_its_largest() -> None:
    """Where zero is rounded from a half, the least may come out just below 0, which as a byte is 255."""
    row = np.linspace(-4.163407, 4.082407, 64).astype("float32")
    row[[0, -1]] = -4.163407, 4.082407
    left, factors = prepare_rows(row[None], np.empty((0, 0), "float32"), "int8")
    assert np.abs((as_numbers(left) - factors[:, 1:]) * factors[:, :1] - row).max() < 0.02
