"""Float32 weights in 28 bits: what is read is what was written, to the bit."""

import numpy as np
import pytest

from gpt_tf2.decoding.kernels.dense import MANY, multiply
from gpt_tf2.decoding.kernels.short_floats import HEADER, STEP
from gpt_tf2.decoding.kernels.tiles import WRITE, Product
from gpt_tf2.decoding.kernels.vectors import COLUMNS, HAS_TILES
from gpt_tf2.decoding.kernels.work import count_numbers
from gpt_tf2.decoding.native.packing import pack

pytestmark = pytest.mark.skipif(not HAS_TILES, reason="this processor lacks the instructions")
INPUTS = 52


def draw_bits(least: int, most: int) -> np.ndarray:
    """Float32 weights of any sign and mantissa [2·COLUMNS, INPUTS], of the exponents from least to most."""
    draw, shape = np.random.default_rng(most), (2 * COLUMNS, INPUTS)
    exponents = draw.integers(least, most + 1, shape, dtype="uint32")
    return (draw.integers(0, 1 << 32, shape, dtype="uint32") & np.uint32(0x807FFFFF) | exponents << 23).view("float32")


def read_back(matrix: np.ndarray) -> np.ndarray:
    """The product of the packed matrix with each row of the identity: at once, which is many, and a few at a time."""
    packed, columns = pack(matrix, np.zeros(len(matrix), "float32"), "float32")
    assert packed.shape == (2, HEADER + STEP * INPUTS)
    results = []
    for size in (INPUTS, 3, 1):
        out = np.full((INPUTS, len(matrix)), np.nan, "float32")
        for first in range(0, INPUTS, size):
            left = np.eye(INPUTS, dtype="float32")[first : first + size]
            targets, room = np.arange(first, first + len(left)), np.empty(INPUTS * COLUMNS, "float32")
            product = Product(left, np.empty((0, 2), "float32"), packed, columns, out, targets, WRITE, packed, room)
            multiply(product, np.zeros(count_numbers(1, 1), "int64"), 0, 0, 1)
        results.append(out.T)
    assert INPUTS >= MANY
    return np.array(results)


@pytest.mark.parametrize(
    "exponents", [(100, 114), (1, 40), (90, 250), (0, 0)], ids=["few", "small", "many", "subnormal"]
)
def test_every_weight_is_read_as_it_was(exponents: tuple[int, int]) -> None:
    matrix = draw_bits(*exponents)
    for read in read_back(matrix):
        np.testing.assert_array_equal(read, matrix)


def test_weights_of_a_normal_distribution_take_28_bits_and_few_stand_apart() -> None:
    matrix = np.random.default_rng(0).normal(0, 0.02, (COLUMNS, 3072)).astype("float32")
    matrix[:, :7] = 0
    packed, columns = pack(matrix, np.zeros(COLUMNS, "float32"), "float32")
    assert packed.nbytes == HEADER + matrix.size * 28 // 8
    assert np.count_nonzero(columns[0]) < matrix.size / 2000 and not columns[-1].any()
