"""Products of a few vectors with a matrix whose sums stay in vector registers, as LLVM instructions for Numba.

The compiler would load and store the sums of a loop over arrays again and again.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from gpt_tf2.backend.numba_kernels import compile_kernel, f32
from gpt_tf2.decoding.kernels.vectors import BYTE, FLAGS, FLOATS, LANES, fetch, repeat

TILE = 128  # positions of a cache that lie together
GROUP = 4  # vectors that are multiplied together: they share each number of the matrix
WIDTH = 8 * LANES  # columns whose sums fit into the registers
GROUP_WIDTH = LANES * (4 if LANES == 16 else 2)  # the same for GROUP vectors
ROUNDER = f32(1.5 * 2**23)  # the sum with a small number ends with the bits of that number, rounded to an integer


class Matrix:
    """Instructions that read and write an array [row, column] from a column on."""

    def __init__(self, builder: ir.IRBuilder, array: Any, first_column: ir.Value):
        self._builder, self._data, self._first_column = builder, array.data, first_column
        self._number = array.data.type.pointee
        self._row_bytes = builder.extract_value(array.strides, 0)

    def point(self, row: ir.Value, column: int, kind: ir.Type) -> ir.Value:
        """A pointer to values of a type."""
        build = self._builder
        row_start = build.gep(build.bitcast(self._data, BYTE.as_pointer()), [build.mul(row, self._row_bytes)])
        place = build.add(self._first_column, self._first_column.type(column))
        return build.bitcast(build.gep(build.bitcast(row_start, self._data.type), [place]), kind.as_pointer())

    def read(self, row: ir.Value, column: int) -> ir.Value:
        """LANES numbers of a row, as float32."""
        kind = ir.VectorType(self._number, LANES)
        numbers = self._builder.load(self.point(row, column, kind), align=1)
        return numbers if kind == FLOATS else self._builder.sitofp(numbers, FLOATS)

    def write(self, row: ir.Value, column: int, numbers: ir.Value) -> None:
        self._builder.store(numbers, self.point(row, column, FLOATS), align=1)

    def repeat(self, row: ir.Value) -> ir.Value:
        """LANES times the number in the first column."""
        return repeat(self._builder, self._builder.load(self.point(row, 0, self._number)), FLOATS)


def make_block_product(rows: int, width: int) -> Any:
    """A kernel (left, right, out, column, ahead) that adds left · right to `width` columns of out.

    left: float32 [`rows`, K]. right: float32 or int8 [K, M]. out: float32 [`rows`, M]. The columns of right and out
    begin at `column`. ahead: [K, M] as right, the memory that is read next: one row fetches it while it computes.
    """

    @intrinsic
    def add_block(_: Any, left: types.Array, right: types.Array, out: types.Array, column: Any, ahead: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            def open_matrix(index: int, first_column: ir.Value) -> Matrix:
                array = make_array(signature.args[index])(context, builder, arguments[index])
                return Matrix(builder, array, first_column)

            first, starts = arguments[3], range(0, width, LANES)
            right, out, ahead = (open_matrix(index, first) for index in (1, 2, 4))
            inner = builder.extract_value(make_array(signature.args[1])(context, builder, arguments[1]).shape, 0)
            size = width * signature.args[1].dtype.bitwidth // 8
            sums = {(row, start): cgutils.alloca_once(builder, FLOATS) for row in range(rows) for start in starts}
            for (row, start), total in sums.items():
                builder.store(out.read(first.type(row), start), total)
            with cgutils.for_range(builder, inner) as loop:
                if rows == 1:
                    fetch(builder, ahead.point(loop.index, 0, BYTE), size)
                numbers = {start: right.read(loop.index, start) for start in starts}
                left = open_matrix(0, loop.index)
                factors = [left.repeat(first.type(row)) for row in range(rows)]
                for (row, start), total in sums.items():
                    product = builder.fmul(factors[row], numbers[start], FLAGS)
                    builder.store(builder.fadd(builder.load(total), product, FLAGS), total)
            for (row, start), total in sums.items():
                out.write(first.type(row), start, builder.load(total))
            return context.get_dummy_value()

        return types.void(left, right, out, types.intp, ahead), generate

    return add_block


add_wide, add_half, add_lanes = (make_block_product(1, width) for width in (WIDTH, WIDTH // 2, LANES))
add_to_group, add_lanes_to_group = make_block_product(GROUP, GROUP_WIDTH), make_block_product(GROUP, LANES)


@compile_kernel
def add_products(left: np.ndarray, right: np.ndarray, out: np.ndarray, ahead: np.ndarray) -> None:
    """Adds the product of left [1 or GROUP, K] and right [K, M] to the first rows of out [GROUP, M].

    ahead: of right's shape and type, the memory that is read next.
    """
    columns, done = right.shape[1], 0
    if len(left) == 1:
        while done + WIDTH <= columns:
            add_wide(left, right, out, done, ahead)
            done += WIDTH
        while done + WIDTH // 2 <= columns:
            add_half(left, right, out, done, ahead)
            done += WIDTH // 2
        while done + LANES <= columns:
            add_lanes(left, right, out, done, ahead)
            done += LANES
    else:
        while done + GROUP_WIDTH <= columns:
            add_to_group(left, right, out, done, ahead)
            done += GROUP_WIDTH
        while done + LANES <= columns:
            add_lanes_to_group(left, right, out, done, ahead)
            done += LANES
    for row in range(len(left)):
        for column in range(done, columns):
            for k in range(len(right)):
                out[row, column] += left[row, k] * f32(right[k, column])
