"""Products of a few rows with a block of a packed matrix, whose sums stay in vector registers, as LLVM instructions.

A matrix is packed into blocks of COLUMNS columns, so that it is read from first to last byte: in int8 a block is
[K / 4, COLUMNS, 4], as one instruction adds four products of bytes to a sum; in float32 see `short_floats.py`.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from gpt_tf2.backend.numba_kernels import LN_2, LOG2_E
from gpt_tf2.decoding.kernels.short_floats import STEP, read_exponents, read_step
from gpt_tf2.decoding.kernels.vectors import (
    AHEAD,
    BYTE,
    CACHE_LINE,
    COLUMNS,
    FLAGS,
    FLOATS,
    INDEX,
    INT32,
    INTEGERS,
    LANES,
    VECTORS,
    constant,
    fetch,
    integer,
    repeat,
)

BYTES_AT_ONCE = 4  # of a row that an instruction multiplies in int8
ROWS = 6  # at most: their sums and a block's vectors fill the registers
FEWER_ROWS = 5  # at most where the weights are short floats, whose reading takes registers, too
FETCHED = AHEAD  # bytes of a block's beginning
FRACTION = 16  # bits of a share
WRITE, ADD, GELU = np.arange(3)  # what becomes of a product; not literals, for each of which Numba compiles anew


class Product(NamedTuple):
    """A product of N rows with a packed matrix. All arrays lie in memory without gaps.

    left: float32 [N, K], or in int8 unsigned bytes [N, K].
    factors: float32 [N, 2], a row's scale and zero point in int8.
    packed: int8 or uint8 [blocks, a block's size].
    columns: float32 [any, blocks·COLUMNS], see `Network`.
    out: float32 [any, blocks·COLUMNS]. targets: int64 [N], the rows of out.
    use: WRITE, ADD or GELU.
    following: what is multiplied next, packed.
    room: float32 [K·COLUMNS or more], a thread's own, for the weights of a block.
    """

    left: np.ndarray
    factors: np.ndarray
    packed: np.ndarray
    columns: np.ndarray
    out: np.ndarray
    targets: np.ndarray
    use: np.integer
    following: np.ndarray
    room: np.ndarray


def make_tile(rows: int, room: str = "unused") -> Any:
    """A kernel (product, row, block, ahead, share) that multiplies rows by a block, and adds the bias.

    Args:
        rows: how many rows, from `row` on.
        room: "written" to leave the block's weights there, without those that stand apart; "read" to take them from
            there.

    Of the kernel:
        ahead, share: the address of what is fetched meanwhile, and how much of it, in 2^-FRACTION of a block.
    """

    @intrinsic
    def multiply_tile(_: Any, product: Any, row: Any, block: Any, ahead: Any, share: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            def open_array(name: str) -> Any:
                i = Product._fields.index(name)
                return make_array(signature.args[0][i])(context, builder, builder.extract_value(arguments[0], i))

            left, columns, out, targets = (open_array(name) for name in ("left", "columns", "out", "targets"))
            numbers = [builder.add(arguments[1], INDEX(i)) for i in range(rows)]
            dtype = signature.args[0][Product._fields.index("packed")].dtype
            vectors = builder.bitcast(open_array("room").data, FLOATS.as_pointer())
            if room == "read":
                steps = read_vectors(builder, FLOATS, 1, vectors)
            else:
                steps = find_steps(builder, dtype, open_array("packed"), arguments[2])
            if room == "written":
                steps = keep_vectors(builder, steps, vectors)
            size = STEP if dtype == types.uint8 else 4 * COLUMNS
            sums = multiply_block(builder, left, numbers, fetch_beside(builder, steps, size, *arguments[3:]))
            first, width = builder.mul(arguments[2], INDEX(COLUMNS)), builder.extract_value(out.shape, 1)
            table = read_columns(builder, columns, first, width)
            kept = cgutils.alloca_once(builder, steps.kind, rows * VECTORS)  # so that what follows is a loop: less code
            for i, total in enumerate(itertools.chain(*sums)):
                builder.store(total, builder.gep(kept, [INDEX(i)]))
            if dtype == types.uint8:
                add_rest(builder, kept, left, numbers, columns, first, width)
            with cgutils.for_range(builder, INDEX(rows)) as loop:
                row = builder.add(arguments[1], loop.index)
                places = [builder.add(builder.mul(loop.index, INDEX(VECTORS)), INDEX(i)) for i in range(VECTORS)]
                values = [builder.load(builder.gep(kept, [place])) for place in places]
                if steps.kind == INTEGERS:
                    values = scale_sums(builder, values, open_array("factors"), row, table)
                values = [builder.fadd(value, bias, FLAGS) for value, bias in zip(values, table[2], strict=True)]
                target = builder.load(builder.gep(targets.data, [row]))
                place = builder.gep(out.data, [builder.add(builder.mul(target, width), first)])
                write_row(builder, values, place, builder.extract_value(arguments[0], Product._fields.index("use")))
            return context.get_dummy_value()

        return types.void(product, types.intp, types.intp, types.int64, types.int64), generate

    return multiply_tile


class Steps(NamedTuple):
    """How a block is read, in steps.

    kind: of the vectors of sums, FLOATS or INTEGERS. inputs: how many of a row a step takes.
    read: the VECTORS vectors of a step, by its number.
    """

    kind: ir.VectorType
    inputs: int
    read: Callable[[ir.Value], list[ir.Value]]


def find_steps(builder: ir.IRBuilder, dtype: types.Type, packed: Any, block: ir.Value) -> Steps:
    """How to read a block of a packed matrix."""
    start = builder.gep(packed.data, [builder.mul(block, builder.extract_value(packed.shape, 1))])
    if dtype == types.int8:
        return read_vectors(builder, INTEGERS, BYTES_AT_ONCE, builder.bitcast(start, INTEGERS.as_pointer()))
    exponents = read_exponents(builder, start)
    return Steps(FLOATS, 1, lambda number: read_step(builder, exponents, start, number))


def read_vectors(builder: ir.IRBuilder, kind: ir.VectorType, inputs: int, start: ir.Value) -> Steps:
    """How to read a block whose vectors lie one after the other."""

    def read(number: ir.Value) -> list[ir.Value]:
        place = builder.gep(start, [builder.mul(number, INDEX(VECTORS))])
        return [builder.load(builder.gep(place, [INDEX(i)]), align=4) for i in range(VECTORS)]

    return Steps(kind, inputs, read)


def fetch_beside(builder: ir.IRBuilder, steps: Steps, size: int, ahead: ir.Value, share: ir.Value) -> Steps:
    """Steps that have memory fetched; see `make_tile`. size: bytes of a step of the packed matrix."""
    start = builder.inttoptr(ahead, BYTE.as_pointer())

    def read(number: ir.Value) -> list[ir.Value]:
        step = builder.lshr(builder.mul(number, share), INDEX(FRACTION))
        fetch(builder, builder.gep(start, [builder.mul(step, INDEX(size))]), size)
        return steps.read(number)

    return steps._replace(read=read)


def keep_vectors(builder: ir.IRBuilder, steps: Steps, start: ir.Value) -> Steps:
    """Steps that write the vectors that they read, one after the other."""

    def read(number: ir.Value) -> list[ir.Value]:
        vectors = steps.read(number)
        for i, vector in enumerate(vectors):
            target = builder.gep(start, [builder.add(builder.mul(number, INDEX(VECTORS)), INDEX(i))])
            builder.store(vector, target, align=4)
        return vectors

    return steps._replace(read=read)


def add_rest(
    builder: ir.IRBuilder,
    sums: ir.Value,
    left: Any,
    rows: list[ir.Value],
    columns: Any,
    first: ir.Value,
    width: ir.Value,
) -> None:
    """Adds the products with the weights of a block that stand apart; see `shorten`."""
    inner, number = builder.extract_value(left.shape, 1), FLOATS.element
    totals = builder.bitcast(sums, number.as_pointer())
    with cgutils.for_range(builder, builder.lshr(builder.extract_value(columns.shape, 0), INDEX(1))) as pairs:
        values = builder.gep(columns.data, [builder.add(builder.mul(builder.shl(pairs.index, INDEX(1)), width), first)])
        places = builder.gep(values, [width])
        with cgutils.for_range(builder, INDEX(COLUMNS)) as loop:
            value = builder.load(builder.gep(values, [loop.index]))
            with builder.if_then(builder.fcmp_ordered("==", value, number(0))):
                loop.do_break()
            place = builder.fptosi(builder.load(builder.gep(places, [loop.index])), INDEX)
            k, column = builder.udiv(place, INDEX(COLUMNS)), builder.urem(place, INDEX(COLUMNS))
            for i, row in enumerate(rows):
                factor = builder.load(builder.gep(left.data, [builder.add(builder.mul(row, inner), k)]))
                total = builder.gep(totals, [builder.add(column, INDEX(i * COLUMNS))])
                product = builder.fmul(factor, value, FLAGS)
                builder.store(builder.fadd(builder.load(total), product, FLAGS), total)


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


def multiply_block(builder: ir.IRBuilder, left: Any, rows: list[ir.Value], steps: Steps) -> list:
    """The products of some of the left's rows with a block: for each row VECTORS vectors of sums."""
    kind = steps.kind
    count = builder.udiv(builder.extract_value(left.shape, 1), INDEX(steps.inputs))
    numbers = builder.bitcast(left.data, kind.element.as_pointer())
    starts = [builder.gep(numbers, [builder.mul(row, count)]) for row in rows]
    sums = [[cgutils.alloca_once(builder, kind) for _ in range(VECTORS)] for _ in rows]
    for total in itertools.chain(*sums):
        builder.store(ir.Constant(kind, None), total)
    with cgutils.for_range(builder, count) as loop:
        vectors = steps.read(loop.index)
        for start, row_sums in zip(starts, sums, strict=True):
            number = repeat(builder, builder.load(builder.gep(start, [loop.index]), align=1), kind)
            for total, vector in zip(row_sums, vectors, strict=True):
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
    """The first two and the last row of a block's columns, VECTORS vectors each: in int8 scales, sums and biases.

    Before anything is written: a processor holds up what is read from the same place of another page.
    """
    table = []
    for row in (INDEX(0), INDEX(1), builder.sub(builder.extract_value(columns.shape, 0), INDEX(1))):
        start = builder.gep(columns.data, [builder.add(builder.mul(width, row), first)])
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


def make_fetch_targets(_: Any, product: Any, row: Any, count: Any, block: Any) -> Any:
    """The type and the instructions of `fetch_targets`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        numbers = [Product._fields.index(name) for name in ("out", "targets")]
        out, targets = (
            make_array(signature.args[0][i])(context, builder, builder.extract_value(arguments[0], i)) for i in numbers
        )
        width = builder.extract_value(out.shape, 1)
        with cgutils.for_range(builder, arguments[2]) as loop:
            row = builder.load(builder.gep(targets.data, [builder.add(arguments[1], loop.index)]))
            place = builder.add(builder.mul(row, width), builder.mul(arguments[3], INDEX(COLUMNS)))
            start = builder.gep(out.data, [place])
            fetch(builder, builder.bitcast(start, BYTE.as_pointer()), 4 * COLUMNS, write=1)
        return context.get_dummy_value()

    return types.void(product, types.intp, types.intp, types.intp), generate


fetch_block: Any = intrinsic(make_fetch_block)  # has a block's beginning fetched
fetch_targets: Any = intrinsic(make_fetch_targets)  # has a block's columns of `count` targets fetched, to be written
TILES = [make_tile(rows) for rows in range(1, ROWS + 1)]
WRITING_TILE, READING_TILE = make_tile(FEWER_ROWS, room="written"), make_tile(ROWS, room="read")
