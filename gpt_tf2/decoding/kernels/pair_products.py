"""Products of 16-bit integers with an int8 matrix, for processors with an instruction that adds two products to a sum.

It multiplies twice as fast as float32 does. 16 bits for the left side make its rounding negligible beside the cache's.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from gpt_tf2.backend.numba_kernels import compile_kernel, f32, find_largest_size
from gpt_tf2.decoding.kernels.products import FEATURES, FLAGS, FLOATS, GROUP, INT32, LANES, Matrix, repeat

HAS_PAIRS = bool(FEATURES.get("avx512vnni"))
WIDTH = 4 * LANES  # columns whose sums for GROUP rows fit into the registers
INT16_MAX = f32(2**15 - 1)
ROUNDER = f32(1.5 * 2**23)  # the sum with a small number ends with the bits of that number, rounded to an integer

INTEGERS, PAIRS = ir.VectorType(INT32, LANES), ir.VectorType(ir.IntType(16), 2 * LANES)


@compile_kernel
def pair_rows(matrix: np.ndarray, pairs: np.ndarray) -> None:
    """Writes int8 [K, M] as int32 [K / 2, M]: two rows in one, the upper in the low 16 bits."""
    for k in range(len(pairs)):
        upper, lower = matrix[2 * k], matrix[2 * k + 1]
        for m in range(matrix.shape[1]):
            pairs[k, m] = (np.int32(upper[m]) & np.int32(0xFFFF)) | np.int32(np.int32(lower[m]) << np.int32(16))


@compile_kernel
def round_vector(vector: np.ndarray, rounded: np.ndarray) -> np.float32:
    """Writes float32 [N] as int16 [N], and returns the number by which these must be multiplied."""
    factor = max(find_largest_size(vector), f32(1e-30)) / INT16_MAX
    multiply_and_round(vector, f32(1) / factor, rounded)
    return factor


@compile_kernel
def multiply_and_round(vector: np.ndarray, factor: np.float32, rounded: np.ndarray) -> None:
    """Writes float32 [N] times a number as int16 [N]. The products must lie within int16."""
    for i in range(len(vector)):
        rounded[i] = f32(vector[i] * factor + ROUNDER).view(np.int32)


@compile_kernel
def add_pair_products(left: np.ndarray, factors: np.ndarray, pairs: np.ndarray, out: np.ndarray) -> None:
    """Adds the product of left, int16 [GROUP, K], and a matrix [K, M], each row times its factor, to out [GROUP, M].

    factors: float32 [GROUP]. pairs: of `pair_rows`, M a multiple of WIDTH. out: float32.
    """
    for block in range(pairs.shape[1] // WIDTH):
        add_pair_block(left, factors, pairs, out, block * WIDTH)


def make_add_pair_block(_: Any, left: Any, factors: Any, pairs: Any, out: Any, column: Any) -> Any:
    """The type and the instructions of `add_pair_products` for WIDTH columns from one on."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        kind = ir.FunctionType(INTEGERS, [PAIRS, PAIRS])  # the sums of two neighboring products each
        multiply = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.pmaddw.d.512")
        arrays = [make_array(signature.args[i])(context, builder, arguments[i]) for i in range(4)]
        first, rows, starts = arguments[4], range(GROUP), range(0, WIDTH, LANES)
        right, sums = Matrix(builder, arrays[2], first), Matrix(builder, arrays[3], first)
        integers = {(row, start): cgutils.alloca_once(builder, INTEGERS) for row in rows for start in starts}
        for place in integers.values():
            builder.store(ir.Constant(INTEGERS, None), place)
        left_pairs = builder.bitcast(arrays[0].data, INT32.as_pointer())
        row_pairs = builder.lshr(builder.extract_value(arrays[0].shape, 1), first.type(1))
        with cgutils.for_range(builder, builder.extract_value(arrays[2].shape, 0)) as loop:
            numbers = {start: builder.load(right.point(loop.index, start, PAIRS), align=4) for start in starts}
            for row in rows:
                index = builder.add(builder.mul(first.type(row), row_pairs), loop.index)
                pair = repeat(builder, builder.load(builder.gep(left_pairs, [index]), align=2), INTEGERS)
                for start in starts:
                    place = integers[row, start]
                    added = builder.call(multiply, [builder.bitcast(pair, PAIRS), numbers[start]])
                    builder.store(builder.add(builder.load(place), added), place)
        for row in rows:
            factor = builder.load(builder.gep(arrays[1].data, [INT32(row)]))
            for start in starts:
                floats = builder.sitofp(builder.load(integers[row, start]), FLOATS)
                product = builder.fmul(repeat(builder, factor, FLOATS), floats, FLAGS)
                earlier = sums.read(first.type(row), start)
                sums.write(first.type(row), start, builder.fadd(earlier, product, FLAGS))
        return context.get_dummy_value()

    return types.void(left, factors, pairs, out, types.intp), generate


add_pair_block: Any = intrinsic(make_add_pair_block)
