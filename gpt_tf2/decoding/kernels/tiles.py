"""Products of a few rows with a block of a packed matrix, whose sums stay in vector registers, as LLVM instructions.

A matrix is packed into blocks of COLUMNS columns, so that it is read from first to last byte: in float32 a block is
[K, COLUMNS]; in int8 [K / 4, COLUMNS, 4], as one instruction adds four products of bytes to a sum.
"""

import itertools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from gpt_tf2.backend.numba_kernels import LN_2, LOG2_E
from gpt_tf2.decoding.kernels.products import BYTE, CACHE_LINE, FEATURES, FLAGS, FLOATS, INT32, LANES, fetch, repeat

HAS_TILES = bool(FEATURES.get("avx512vnni"))
VECTORS = 4  # registers that a row's sums take
COLUMNS = VECTORS * LANES
BYTES_AT_ONCE = 4  # of a row that an instruction multiplies in int8
ROWS = 6  # at most: their sums and a block's vectors fill the registers
AHEAD = 16384  # bytes from what is read to what is fetched; measured in docs/lab-notes.md, "Many steps in one call"
FETCHED = AHEAD  # bytes of a block's beginning
WRITE, ADD, GELU = np.arange(3)  # what becomes of a product; not literals, for each of which Numba compiles anew

INDEX, INTEGERS = ir.IntType(64), ir.VectorType(INT32, LANES)


def make_tile(rows: int) -> Any:
    """A kernel (left, factors, row, packed, columns, block, out, use) that multiplies rows with a block, adds the bias.

    Args:
        rows: how many rows of left and out, from `row` on.

    Of the kernel:
        left: float32 [N, K], or in int8 unsigned bytes [N, K].
        factors: float32 [N, 2], a row's scale and zero point in int8.
        packed: [blocks, K·COLUMNS]. columns: float32 [3, blocks·COLUMNS], see `Network`.
        out: float32 [N, blocks·COLUMNS]. use: WRITE, ADD or GELU.
        All lie in memory without gaps.
    """

    @intrinsic
    def multiply_tile(
        _: Any, left: Any, factors: Any, row: Any, packed: types.Array, columns: Any, block: Any, out: Any, use: Any
    ) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            def open_array(i: int) -> Any:
                return make_array(signature.args[i])(context, builder, arguments[i])

            left, factors, packed, columns, out = (open_array(i) for i in (0, 1, 3, 4, 6))
            numbers = [builder.add(arguments[2], INDEX(i)) for i in range(rows)]
            sums = multiply_block(builder, left, numbers, packed, arguments[5])
            first, width = builder.mul(arguments[5], INDEX(COLUMNS)), builder.extract_value(out.shape, 1)
            table = read_columns(builder, columns, first, width)
            kind = sums[0][0].type
            kept = cgutils.alloca_once(builder, kind, rows * VECTORS)  # so that what follows is a loop: less code
            for i, total in enumerate(itertools.chain(*sums)):
                builder.store(total, builder.gep(kept, [INDEX(i)]))
            with cgutils.for_range(builder, INDEX(rows)) as loop:
                row = builder.add(arguments[2], loop.index)
                places = [builder.add(builder.mul(loop.index, INDEX(VECTORS)), INDEX(i)) for i in range(VECTORS)]
                values = [builder.load(builder.gep(kept, [place])) for place in places]
                if kind == INTEGERS:
                    values = scale_sums(builder, values, factors, row, table)
                values = [builder.fadd(value, bias, FLAGS) for value, bias in zip(values, table[2], strict=True)]
                write_row(
                    builder, values, builder.gep(out.data, [builder.add(builder.mul(row, width), first)]), arguments[7]
                )
            return context.get_dummy_value()

        return types.void(left, factors, types.intp, packed, columns, types.intp, out, types.intp), generate

    return multiply_tile


def write_row(builder: ir.IRBuilder, values: list[ir.Value], place: ir.Value, use: ir.Value) -> None:
    """Writes the VECTORS vectors of a row, or adds them, or writes their GELU."""
    vectors = builder.bitcast(place, FLOATS.as_pointer())
    targets = [builder.gep(vectors, [INDEX(i)]) for i in range(VECTORS)]
    results = [cgutils.alloca_once_value(builder, ir.Constant(FLOATS, ir.Undefined)) for _ in values]
    for result, value in zip(results, values, strict=True):
        builder.store(value, result)
    with builder.if_then(builder.icmp_signed("==", use, INDEX(int(ADD)))):
        for result, value, target in zip(results, values, targets, strict=True):
            builder.store(builder.fadd(value, builder.load(target, align=4), FLAGS), result)
    with builder.if_then(builder.icmp_signed("==", use, INDEX(int(GELU)))):
        for result, value in zip(results, values, strict=True):
            builder.store(compute_gelu(builder, value), result)
    for result, target in zip(results, targets, strict=True):
        builder.store(builder.load(result), target, align=4)


def multiply_block(builder: ir.IRBuilder, left: Any, rows: list[ir.Value], packed: Any, block: ir.Value) -> list:
    """The products of some of the left's rows with a block: for each row VECTORS vectors, of floats or of integers."""
    kind = FLOATS if packed.data.type.pointee == FLOATS.element else INTEGERS
    inner = builder.extract_value(left.shape, 1)
    steps = inner if kind == FLOATS else builder.lshr(inner, INDEX(2))
    numbers = builder.bitcast(left.data, kind.element.as_pointer())
    starts = [builder.gep(numbers, [builder.mul(row, steps)]) for row in rows]
    size = builder.extract_value(packed.shape, 1)
    vectors = builder.bitcast(builder.gep(packed.data, [builder.mul(block, size)]), kind.as_pointer())
    sums = [[cgutils.alloca_once(builder, kind) for _ in range(VECTORS)] for _ in rows]
    for total in itertools.chain(*sums):
        builder.store(ir.Constant(kind, None), total)
    with cgutils.for_range(builder, steps) as loop:
        place = builder.gep(vectors, [builder.mul(loop.index, INDEX(VECTORS))])
        fetch(builder, builder.gep(builder.bitcast(place, BYTE.as_pointer()), [INDEX(AHEAD)]), 4 * COLUMNS)
        read = [builder.load(builder.gep(place, [INDEX(i)]), align=4) for i in range(VECTORS)]
        for start, row_sums in zip(starts, sums, strict=True):
            number = repeat(builder, builder.load(builder.gep(start, [loop.index]), align=1), kind)
            for total, vector in zip(row_sums, read, strict=True):
                builder.store(add_product(builder, builder.load(total), number, vector), total)
    return [[builder.load(total) for total in row_sums] for row_sums in sums]


def add_product(builder: ir.IRBuilder, total: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
    """Adds to vectors of sums: in float32 a product each, in integers that of four unsigned and four signed bytes."""
    if total.type == FLOATS:
        return builder.fadd(total, builder.fmul(left, right, FLAGS), FLAGS)
    kind = ir.FunctionType(INTEGERS, [INTEGERS, INTEGERS, INTEGERS])
    multiply = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
    return builder.call(multiply, [total, left, right])


def read_columns(builder: ir.IRBuilder, columns: Any, first: ir.Value, width: ir.Value) -> list:
    """The scales, sums and biases of a block's columns, VECTORS vectors each.

    Before anything is written: a processor holds up what is read from the same place of another page.
    """
    table = []
    for row in range(3):
        start = builder.gep(columns.data, [builder.add(builder.mul(width, INDEX(row)), first)])
        vectors = builder.bitcast(start, FLOATS.as_pointer())
        table.append([builder.load(builder.gep(vectors, [INDEX(i)]), align=4) for i in range(VECTORS)])
    return table


def scale_sums(builder: ir.IRBuilder, sums: list, factors: Any, row: ir.Value, table: list) -> list[ir.Value]:
    """The products that a row's sums of integers stand for."""
    start = builder.gep(factors.data, [builder.mul(row, INDEX(2))])
    scale = repeat(builder, builder.load(start), FLOATS)
    zero = repeat(builder, builder.fptosi(builder.load(builder.gep(start, [INDEX(1)])), INT32), INTEGERS)
    values = []
    for total, column_scale, column_sum in zip(sums, table[0], table[1], strict=True):
        shifted = builder.sub(total, builder.mul(zero, builder.fptosi(column_sum, INTEGERS)))
        values.append(builder.fmul(builder.sitofp(shifted, FLOATS), builder.fmul(scale, column_scale)))
    return values


def compute_gelu(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """GELU in the tanh approximation (see `gelu` in `model.py`), as (1 + tanh u) / 2 is 1 / (1 + exp(-2 u))."""
    cube = builder.fmul(x, builder.fmul(x, x))
    double = builder.fadd(builder.fmul(x, constant(1.5957691216)), builder.fmul(cube, constant(0.0713548163)), FLAGS)
    power = compute_exponential(builder, builder.fneg(double))
    return builder.fdiv(x, builder.fadd(power, constant(1.0)))


def compute_exponential(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """As the function of that name in `numba_kernels.py`, from 2^-126 to 2^126."""
    scaled = builder.fmul(x, constant(float(LOG2_E)))
    for bound, order in ((-126.0, "<"), (126.0, ">")):
        beyond = builder.fcmp_ordered(order, scaled, constant(bound))
        scaled = builder.select(beyond, constant(bound), scaled)
    whole = call(builder, "llvm.rint", scaled)
    rest = builder.fmul(builder.fsub(scaled, whole), constant(float(LN_2)))
    exponent = builder.add(builder.fptosi(whole, INTEGERS), integer(127))
    power = builder.bitcast(builder.shl(exponent, integer(23)), FLOATS)
    series = constant(1 / 720)
    for divisor in (120, 24, 6, 2, 1, 1):
        series = builder.fadd(builder.fmul(series, rest, FLAGS), constant(1 / divisor), FLAGS)
    return builder.fmul(power, series)


def call(builder: ir.IRBuilder, name: str, vector: ir.Value) -> ir.Value:
    """LLVM's function of a vector of floats."""
    kind = ir.FunctionType(FLOATS, [FLOATS])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32"), [vector])


def integer(number: int) -> ir.Constant:
    """A vector of LANES times a whole number."""
    return ir.Constant(INTEGERS, [number] * LANES)


def constant(number: float) -> ir.Constant:
    """A vector of LANES times a number."""
    return ir.Constant(FLOATS, [number] * LANES)


def make_fetch_block(_: Any, packed: types.Array, block: Any) -> Any:
    """The type and the instructions of `fetch_block`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        packed = make_array(signature.args[0])(context, builder, arguments[0])
        start = builder.gep(packed.data, [builder.mul(arguments[1], builder.extract_value(packed.shape, 1))])
        start = builder.bitcast(start, BYTE.as_pointer())
        with cgutils.for_range(builder, INDEX(FETCHED // CACHE_LINE)) as loop:
            fetch(builder, builder.gep(start, [builder.mul(loop.index, INDEX(CACHE_LINE))]), CACHE_LINE)
        return context.get_dummy_value()

    return types.void(packed, types.intp), generate


def make_fetch_columns(_: Any, out: types.Array, row: Any, count: Any, block: Any) -> Any:
    """The type and the instructions of `fetch_columns`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        out = make_array(signature.args[0])(context, builder, arguments[0])
        width = builder.extract_value(out.shape, 1)
        with cgutils.for_range(builder, arguments[2]) as loop:
            row = builder.mul(builder.add(arguments[1], loop.index), width)
            start = builder.gep(out.data, [builder.add(row, builder.mul(arguments[3], INDEX(COLUMNS)))])
            fetch(builder, builder.bitcast(start, BYTE.as_pointer()), 4 * COLUMNS, write=1)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp, types.intp), generate


fetch_block: Any = intrinsic(make_fetch_block)  # has a block's beginning fetched
fetch_columns: Any = intrinsic(make_fetch_columns)  # has a block's columns of `count` rows fetched, to be written
TILES = [make_tile(rows) for rows in range(1, ROWS + 1)]
