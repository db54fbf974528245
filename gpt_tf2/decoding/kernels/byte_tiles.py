"""Attention's products with a tile of a cache of bytes, and what lies between them, as LLVM instructions for Numba.

One instruction multiplies four unsigned with four signed bytes and adds the products to a sum of 32 bits. So the four
numbers that it takes lie beside each other: a tile's keys are [TILE / BLOCK, D / 4, BLOCK, 4], its values
[TILE / 4, D, 4]. So both are read from first to last byte, which a processor fetches best.
Keys are stored plus 128, as unsigned bytes, so that queries can be signed. Values are signed, as weights are positive.

Queries and weights keep 16 bits, so that their rounding is negligible beside the cache's: a low and a high byte, each
multiplied by itself. These split numbers are bytes [K / 4, 4, 4]: of each four numbers the low bytes, the high bytes,
and 8 bytes without meaning, as one instruction makes them from 16 integers.

A kernel takes whole arrays, which lie in memory without gaps, and indices: Numba would count references to slices.

Letters in shapes: T new tokens, Q queries that are split together, H heads, D size of a head, N tiles of all heads.
"""

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from gpt_tf2.backend.numba_kernels import LOG2_E
from gpt_tf2.decoding.kernels.products import ROUNDER, TILE
from gpt_tf2.decoding.kernels.tiles import add_product, call
from gpt_tf2.decoding.kernels.vectors import (
    BYTE,
    FETCHES,
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

BLOCK = VECTORS * LANES  # positions whose scores are computed together
GROUP = 3  # queries that are multiplied together: the sums of both bytes and a tile's vectors fill the registers
SPLIT = 4  # bytes that a split number takes
HIGHEST_QUERY = 127 * 256 + 127.0  # both its bytes are 127
HIGHEST_WEIGHT = 65000.0  # times its scale, in units; no rounding carries it to 2^16
HIGHEST_BYTE = 127.0
LEAST = 1e-20  # stands for the largest size of zeros
HIDDEN = -1e30  # the score of what a query may not see: its weight becomes zero
POWER_SERIES = 0.999999261, 0.693121815, 0.240247448, 0.0559178618, 0.00957010188  # of 2^x from -1/2 to 1/2, to 3e-6
ROUNDER_BITS = 0x4B400000

SHARED = 16 * GROUP  # queries that share a tile while all lies in the processor's first cache
# What kernels pass to each other lies in one array, the room: for each name, its rows and their width, in numbers of 4
# bytes. Then come `queries`, split, and `sums`, of weighted values: [SHARED, D].
ROOM = {
    "scores": (GROUP, TILE),
    "weights": (GROUP, TILE),  # times values' scales, split
    "ratios": (1, TILE),  # of values' scales to the unit
    "shrinks": (LANES, 1),  # what sums over earlier tiles must be multiplied by, as the largest score may have grown
    "factors": (SHARED, 1),  # of scores
    "offsets": (SHARED, 1),  # of products: they make up for the keys' 128
    "largest": (SHARED, 1),  # scores so far
    "totals": (SHARED, LANES),  # their sums are those of the weights so far
}
ROOM_SIZE = sum(rows * width for rows, width in ROOM.values())

FIRST_ROW = INDEX(0)
FLOAT, BYTES = FLOATS.element, ir.VectorType(BYTE, 4 * LANES)


class Arguments:
    """A kernel's arguments while its instructions are generated."""

    def __init__(self, builder: ir.IRBuilder, values: dict[str, ir.Value], arrays: dict[str, Any]):
        self._builder, self._values, self._arrays = builder, values, arrays

    def __getitem__(self, name: str) -> ir.Value:
        return self._values[name]

    def count(self, name: str, axis: int) -> ir.Value:
        """An array's size along an axis."""
        return self._builder.extract_value(self._arrays[name].shape, axis)

    def point(self, name: str, kind: ir.Type, *indices: ir.Value) -> ir.Value:
        """A pointer to values of a type in an array, from its first indices on."""
        array, place = self._arrays[name], INDEX(0)
        for axis in range(array.shape.type.count):
            place = self._builder.mul(place, self.count(name, axis))
            if axis < len(indices):
                place = self._builder.add(place, indices[axis])
        return self._builder.bitcast(self._builder.gep(array.data, [place]), kind.as_pointer())

    def room(self, name: str, kind: ir.Type, row: ir.Value = FIRST_ROW) -> ir.Value:
        """A pointer to values of a type in a row of a part of the room; see ROOM."""
        build, width = self._builder, self.depth() if name in ("queries", "sums") else INDEX(ROOM[name][1])
        place = build.mul(row, width)
        for part, (rows, part_width) in ROOM.items():
            if part == name:
                break
            place = build.add(place, INDEX(rows * part_width))
        if name == "sums":
            place = build.add(place, build.mul(INDEX(SHARED), width))
        return build.bitcast(build.gep(self._arrays["room"].data, [place]), kind.as_pointer())

    def depth(self) -> ir.Value:
        """The size of a head, from that of the room."""
        both = self._builder.sub(self.count("room", 0), INDEX(ROOM_SIZE))
        return self._builder.udiv(both, INDEX(2 * SHARED))


def make_kernel(names: str, generate: Callable[[ir.IRBuilder, Arguments], Any], result: Any = types.void) -> Any:
    """A function for kernels, from its arguments' names and what generates its instructions."""
    parameters = names.split()

    def define(_: Any, *kinds: Any) -> Any:
        def generate_call(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            arrays = {
                name: make_array(kind)(context, builder, value)
                for name, kind, value in zip(parameters, signature.args, values, strict=True)
                if isinstance(kind, types.Array)
            }
            value = generate(builder, Arguments(builder, dict(zip(parameters, values, strict=True)), arrays))
            return context.get_dummy_value() if result == types.void else value

        return result(*(types.intp if isinstance(kind, types.Integer) else kind for kind in kinds)), generate_call

    kind, described = inspect.Parameter.POSITIONAL_OR_KEYWORD, ("_", *parameters)
    setattr(define, "__signature__", inspect.Signature([inspect.Parameter(name, kind) for name in described]))  # noqa: B010
    return intrinsic(define)


def generate_store_key(builder: ir.IRBuilder, arguments: Arguments) -> None:
    """Rounds a token's key, and stores it with its scale, which includes the 1/√D of the attention."""
    depth, tile, position = arguments.count("new", 3), arguments["tile"], arguments["position"]
    vectors = arguments.point("new", FLOATS, arguments["token"], INDEX(1), arguments["head"])
    size = find_size(builder, vectors, depth)
    root = call(builder, "llvm.sqrt", builder.uitofp(repeat(builder, builder.trunc(depth, INT32), INTEGERS), FLOATS))
    scale = builder.fdiv(size, builder.fmul(root, constant(HIGHEST_BYTE)))
    builder.store(get_first(builder, scale), arguments.point("scales", FLOAT, tile, position))
    factor, words = builder.fdiv(constant(HIGHEST_BYTE), size), arguments.point("cache", INT32, tile)
    narrow, words_of_vector = ir.VectorType(BYTE, LANES), LANES // 4
    block, column = builder.udiv(position, INDEX(BLOCK)), builder.urem(position, INDEX(BLOCK))
    start = builder.add(builder.mul(block, builder.mul(builder.lshr(depth, INDEX(2)), INDEX(BLOCK))), column)
    with cgutils.for_range(builder, count_vectors(builder, depth)) as loop:
        rounded = round_to_integers(builder, builder.fmul(read(builder, vectors, loop.index), factor))
        shifted = builder.xor(rounded, integer(128))  # adds 128 to the low byte
        fours = builder.bitcast(builder.trunc(shifted, narrow), ir.VectorType(INT32, words_of_vector))
        for i in range(words_of_vector):
            row = builder.add(builder.mul(loop.index, INDEX(words_of_vector)), INDEX(i))
            place = builder.add(start, builder.mul(row, INDEX(BLOCK)))
            builder.store(builder.extract_element(fours, INT32(i)), builder.gep(words, [place]), align=1)


def generate_store_value(builder: ir.IRBuilder, arguments: Arguments) -> None:
    """Rounds a token's value, and stores it with its scale."""
    depth, tile, position = arguments.count("new", 3), arguments["tile"], arguments["position"]
    vectors = arguments.point("new", FLOATS, arguments["token"], INDEX(2), arguments["head"])
    size = find_size(builder, vectors, depth)
    scale = builder.fdiv(size, constant(HIGHEST_BYTE))
    builder.store(get_first(builder, scale), arguments.point("scales", FLOAT, tile, position))
    factor, count = builder.fdiv(constant(HIGHEST_BYTE), size), count_vectors(builder, depth)
    fours = builder.gep(
        arguments.point("cache", INTEGERS, tile), [builder.mul(builder.lshr(position, INDEX(2)), count)]
    )
    shift = builder.shl(builder.and_(builder.trunc(position, INT32), INT32(3)), INT32(3))
    shift = repeat(builder, shift, INTEGERS)
    others = builder.not_(builder.shl(integer(255), shift))
    with cgutils.for_range(builder, count) as loop:
        rounded = round_to_integers(builder, builder.fmul(read(builder, vectors, loop.index), factor))
        byte = builder.shl(builder.and_(rounded, integer(255)), shift)
        kept = builder.and_(read(builder, fours, loop.index), others)
        builder.store(builder.or_(kept, byte), builder.gep(fours, [loop.index]), align=1)


def generate_begin(builder: ir.IRBuilder, arguments: Arguments) -> None:
    """Rounds and splits a token's query, and begins its sums. Factors include log2(e), as weights are powers of two."""
    depth, query = arguments.count("new", 3), arguments["query"]
    vectors = arguments.point("new", FLOATS, arguments["token"], INDEX(0), arguments["head"])
    size = find_size(builder, vectors, depth)
    result = builder.fmul(size, constant(float(LOG2_E) / HIGHEST_QUERY))
    builder.store(get_first(builder, result), arguments.room("factors", FLOAT, query))
    factor, split = builder.fdiv(constant(HIGHEST_QUERY), size), arguments.room("queries", BYTES, query)
    total = cgutils.alloca_once_value(builder, integer(0))
    with cgutils.for_range(builder, count_vectors(builder, depth)) as loop:
        rounded = round_to_integers(builder, builder.fmul(read(builder, vectors, loop.index), factor))
        builder.store(builder.add(builder.load(total), rounded), total)
        signed = builder.xor(builder.add(rounded, integer(128)), integer(128))  # 256 · high + low, both signed
        builder.store(split_integers(builder, signed), builder.gep(split, [loop.index]), align=1)
        builder.store(constant(0.0), builder.gep(arguments.room("sums", FLOATS, query), [loop.index]), align=4)
    offset = builder.mul(spread(builder, builder.load(total), builder.add), integer(-128))
    builder.store(get_first(builder, offset), arguments.room("offsets", INT32, query))
    builder.store(FLOAT(HIDDEN), arguments.room("largest", FLOAT, query))
    builder.store(constant(0.0), arguments.room("totals", FLOATS, query), align=4)


def generate_finish(builder: ir.IRBuilder, arguments: Arguments) -> None:
    """Divides a query's sums by its total of weights."""
    query, count = arguments["query"], count_vectors(builder, arguments.depth())
    total = spread(builder, builder.load(arguments.room("totals", FLOATS, query), align=4), builder.fadd)
    factor, sums = builder.fdiv(constant(1.0), total), arguments.room("sums", FLOATS, query)
    out = arguments.point("out", FLOATS, arguments["token"], arguments["head"])
    with cgutils.for_range(builder, count) as loop:
        result = builder.fmul(read(builder, sums, loop.index), factor)
        builder.store(result, builder.gep(out, [loop.index]), align=4)


def make_score(rows: int, is_fetching: bool) -> Any:
    """A kernel that multiplies some queries by the keys of a tile's first blocks, and by the keys' scales."""

    def generate(builder: ir.IRBuilder, arguments: Arguments) -> None:
        numbers = [builder.add(arguments["query"], INDEX(row)) for row in range(rows)]
        lefts = [arguments.room("queries", INT32, number) for number in numbers]
        offsets = [builder.load(arguments.room("offsets", INT32, number)) for number in numbers]
        starts = [repeat(builder, offset, INTEGERS) for offset in offsets]
        keys, ahead = (arguments.point("cache", INTEGERS, arguments[name]) for name in ("tile", "ahead"))
        scales = arguments.point("scales", FLOATS, arguments["tile"])
        steps = builder.udiv(arguments.depth(), INDEX(4))
        with cgutils.for_range(builder, arguments["blocks"]) as loop:
            first = builder.mul(loop.index, INDEX(VECTORS))
            is_used = builder.icmp_signed("<", builder.mul(loop.index, INDEX(BLOCK)), arguments["ahead_used"])
            start = builder.mul(first, steps)
            right, fetched = builder.gep(keys, [start]), builder.gep(builder.select(is_used, ahead, keys), [start])
            sums = multiply_split(
                builder, lefts, right, steps, INDEX(VECTORS), VECTORS, starts, True,
                (fetched, steps) if is_fetching else None,
            )  # fmt: skip
            for i in range(VECTORS):
                number = builder.add(first, INDEX(i))
                scale = read(builder, scales, number)
                for row in range(rows):
                    score = builder.fmul(builder.sitofp(sums[row][i], FLOATS), scale)
                    place = builder.gep(arguments.room("scores", FLOATS, INDEX(row)), [number])
                    builder.store(score, place, align=4)

    return make_kernel("query cache tile ahead ahead_used scales blocks room", generate)


def generate_relate(builder: ir.IRBuilder, arguments: Arguments) -> ir.Value:
    """Divides the scales of a tile's values by the unit of its weights times scales, which it returns."""
    scales, ratios = arguments.point("scales", FLOATS, arguments["tile"]), arguments.room("ratios", FLOATS)
    for name in ("ahead", "ahead_values"):
        fetch(builder, arguments.point("scales", BYTE, arguments[name]), 4 * TILE)
    used, read_scales = repeat(builder, builder.trunc(arguments["used"], INT32), INTEGERS), []
    for i in range(TILE // LANES):
        positions = ir.Constant(INTEGERS, [LANES * i + lane for lane in range(LANES)])
        is_used = builder.icmp_signed("<", positions, used)
        read_scales.append(builder.select(is_used, read(builder, scales, INDEX(i)), constant(LEAST)))
    largest = read_scales[0]
    for scale in read_scales[1:]:
        largest = choose_larger(builder, largest, scale)
    unit = builder.fmul(spread_largest(builder, largest), constant(1 / HIGHEST_WEIGHT))
    factor = builder.fdiv(constant(1.0), unit)
    for i, scale in enumerate(read_scales):
        builder.store(builder.fmul(scale, factor), builder.gep(ratios, [INDEX(i)]), align=4)
    return get_first(builder, unit)


def make_weigh(rows: int) -> Any:
    """A kernel that turns some queries' scores of a tile into weights."""

    def generate(builder: ir.IRBuilder, arguments: Arguments) -> None:
        vectors, ratios = range(TILE // LANES), arguments.room("ratios", FLOATS)
        queries = [builder.add(arguments["query"], INDEX(row)) for row in range(rows)]
        all_scores = [arguments.room("scores", FLOATS, INDEX(row)) for row in range(rows)]
        before = [repeat(builder, builder.load(arguments.room("largest", FLOAT, query)), FLOATS) for query in queries]
        largest = []  # of all rows first: each waits for many instructions
        for scores, earlier in zip(all_scores, before, strict=True):
            candidates = [read(builder, scores, INDEX(i)) for i in vectors]
            while len(candidates) > 1:
                pairs = zip(candidates[::2], candidates[1::2], strict=True)
                candidates = [choose_larger(builder, *pair) for pair in pairs]
            largest.append(choose_larger(builder, earlier, spread_largest(builder, candidates[0])))
        for row, query in enumerate(queries):
            factor = repeat(builder, builder.load(arguments.room("factors", FLOAT, query)), FLOATS)
            shrink = raise_two(builder, builder.fmul(builder.fsub(before[row], largest[row]), factor))
            place, split = arguments.room("totals", FLOATS, query), arguments.room("weights", BYTES, INDEX(row))
            total = builder.fmul(builder.load(place, align=4), shrink)
            for i in vectors:
                score = read(builder, all_scores[row], INDEX(i))
                weight = raise_two(builder, builder.fmul(builder.fsub(score, largest[row]), factor))
                total = builder.fadd(total, weight)
                product = builder.fmul(weight, read(builder, ratios, INDEX(i)))
                bits = builder.bitcast(builder.fadd(product, constant(float(ROUNDER))), INTEGERS)
                builder.store(split_integers(builder, bits), builder.gep(split, [INDEX(i)]), align=1)
            builder.store(total, place, align=4)
            builder.store(get_first(builder, largest[row]), arguments.room("largest", FLOAT, query))
            builder.store(get_first(builder, shrink), arguments.room("shrinks", FLOAT, INDEX(row)))

    return make_kernel("query room", generate)


def make_add_values(rows: int, vectors: int, is_fetching: bool) -> Any:
    """A kernel that adds a tile's values, weighted, to some queries' sums, `vectors` vectors of D at a time."""

    def generate(builder: ir.IRBuilder, arguments: Arguments) -> None:
        unit = repeat(builder, arguments["unit"], FLOATS)
        lefts = [arguments.room("weights", INT32, INDEX(row)) for row in range(rows)]
        numbers = [builder.add(arguments["query"], INDEX(row)) for row in range(rows)]
        places = [arguments.room("sums", FLOATS, number) for number in numbers]
        shrinks = [builder.load(arguments.room("shrinks", FLOAT, INDEX(row))) for row in range(rows)]
        values, ahead = (arguments.point("cache", INTEGERS, arguments[name]) for name in ("tile", "ahead"))
        width = count_vectors(builder, arguments.depth())
        ahead_steps = builder.lshr(builder.add(arguments["ahead_used"], INDEX(3)), INDEX(2))
        with cgutils.for_range(builder, builder.udiv(width, INDEX(vectors))) as loop:
            first = builder.mul(loop.index, INDEX(vectors))
            right, fetched = builder.gep(values, [first]), (builder.gep(ahead, [first]), ahead_steps)
            sums = multiply_split(
                builder, lefts, right, arguments["steps"], width, vectors, [integer(0)] * rows, False,
                fetched if is_fetching else None,
            )  # fmt: skip
            for row in range(rows):
                shrink = repeat(builder, shrinks[row], FLOATS)
                for i in range(vectors):
                    place = builder.gep(places[row], [builder.add(first, INDEX(i))])
                    before = builder.fmul(builder.load(place, align=4), shrink, FLAGS)
                    added = builder.fmul(builder.sitofp(sums[row][i], FLOATS), unit, FLAGS)
                    builder.store(builder.fadd(before, added, FLAGS), place, align=4)

    return make_kernel("query cache tile ahead ahead_used unit steps room", generate)


def multiply_split(
    builder: ir.IRBuilder,
    lefts: list[ir.Value],
    right: ir.Value,
    steps: ir.Value,
    width: ir.Value,
    vectors: int,
    starts: list[ir.Value],
    is_right_unsigned: bool,
    ahead: tuple[ir.Value, ir.Value] | None,
) -> list[list[ir.Value]]:
    """The products of rows of split numbers with some columns of a tile, as integers: `vectors` vectors for each row.

    Args:
        lefts: pointers to the rows. right: to the first vector.
        ahead: a pointer to what is fetched meanwhile, and how many steps of it.
        steps: of four numbers each. width: vectors from one step to the next.
        starts: for each row what its sums begin with.
    """
    zero = integer(0)
    sums = [
        [[cgutils.alloca_once_value(builder, start) for _ in range(vectors)] for start in (low, zero)] for low in starts
    ]
    with cgutils.for_range(builder, steps) as loop:
        first = builder.mul(loop.index, width)
        if ahead is not None:
            start = builder.select(builder.icmp_signed("<", loop.index, ahead[1]), ahead[0], right)  # if not, cached
            fetch(builder, builder.bitcast(builder.gep(start, [first]), BYTE.as_pointer()), 4 * LANES * vectors)
        read_vectors = [read(builder, right, builder.add(first, INDEX(i))) for i in range(vectors)]
        for left, row_sums in zip(lefts, sums, strict=True):
            for byte, byte_sums in enumerate(row_sums):
                place = builder.add(builder.mul(loop.index, INDEX(SPLIT)), INDEX(byte))
                numbers = repeat(builder, builder.load(builder.gep(left, [place]), align=1), INTEGERS)
                for total, vector in zip(byte_sums, read_vectors, strict=True):
                    factors = (vector, numbers) if is_right_unsigned else (numbers, vector)
                    builder.store(add_product(builder, builder.load(total), *factors), total)
    return [
        [
            builder.add(builder.load(low), builder.shl(builder.load(high), integer(8)))
            for low, high in zip(*row_sums, strict=True)
        ]
        for row_sums in sums
    ]


def find_size(builder: ir.IRBuilder, vectors: ir.Value, depth: ir.Value) -> ir.Value:
    """The largest absolute value of D numbers, LANES times."""
    size = cgutils.alloca_once_value(builder, constant(LEAST))
    with cgutils.for_range(builder, count_vectors(builder, depth)) as loop:
        numbers = call(builder, "llvm.fabs", read(builder, vectors, loop.index))
        builder.store(choose_larger(builder, builder.load(size), numbers), size)
    return spread_largest(builder, builder.load(size))


def count_vectors(builder: ir.IRBuilder, depth: ir.Value) -> ir.Value:
    return builder.udiv(depth, INDEX(LANES))


def read(builder: ir.IRBuilder, vectors: ir.Value, number: ir.Value) -> ir.Value:
    """A vector of memory, which need not lie at a multiple of its size."""
    return builder.load(builder.gep(vectors, [number]), align=1)


def round_to_integers(builder: ir.IRBuilder, numbers: ir.Value) -> ir.Value:
    bits = builder.bitcast(builder.fadd(numbers, constant(float(ROUNDER))), INTEGERS)
    return builder.sub(bits, integer(ROUNDER_BITS))


def split_integers(builder: ir.IRBuilder, integers: ir.Value) -> ir.Value:
    """Split numbers from the low 16 bits of integers."""
    source, fours = builder.bitcast(integers, BYTES), range(0, 4 * LANES, 16)
    order = [four + 4 * i + byte for four in fours for byte in (0, 1, 0, 1) for i in range(4)]
    return builder.shuffle_vector(source, source, ir.Constant(ir.VectorType(INT32, len(order)), order))


def spread_largest(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """LANES times a vector's largest number."""
    return spread(builder, vector, lambda one, other: choose_larger(builder, one, other))


def spread(builder: ir.IRBuilder, vector: ir.Value, combine: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """LANES times what a function of pairs makes of a vector's numbers."""
    distance = LANES // 2
    while distance:
        order = [lane ^ distance for lane in range(LANES)]
        vector = combine(vector, builder.shuffle_vector(vector, vector, ir.Constant(INTEGERS, order)))
        distance //= 2
    return vector


def choose_larger(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


def raise_two(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2^x, zero of a large negative number, with a relative error below 3e-6."""
    whole = call(builder, "llvm.rint", x)
    rest, series = builder.fsub(x, whole), constant(POWER_SERIES[-1])
    for factor in reversed(POWER_SERIES[:-1]):
        series = builder.fadd(builder.fmul(series, rest), constant(factor))
    mask = ir.IntType(LANES)
    kind = ir.FunctionType(FLOATS, [FLOATS, FLOATS, FLOATS, mask, INT32])
    scale = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.scalef.ps.512")
    return builder.call(scale, [series, whole, series, mask(-1), INT32(4)])  # 4: rounds as all else does


def get_first(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    return builder.extract_element(vector, INT32(0))


store_key = make_kernel("new token head cache tile scales position", generate_store_key)
store_value = make_kernel("new token head cache tile scales position", generate_store_value)
begin = make_kernel("new token head query room", generate_begin)
finish = make_kernel("query room out token head", generate_finish)
score, score_first, score_group = make_score(1, FETCHES), make_score(GROUP, FETCHES), make_score(GROUP, False)
relate = make_kernel("scales tile used ahead ahead_values room", generate_relate, types.float32)
weigh, weigh_group = make_weigh(1), make_weigh(GROUP)
add_values, add_first_values, add_group_values = (
    make_add_values(rows, VECTORS, is_fetching)
    for rows, is_fetching in ((1, FETCHES), (GROUP, FETCHES), (GROUP, False))
)
add_narrow_values, add_narrow_group_values = make_add_values(1, 1, FETCHES), make_add_values(GROUP, 1, False)
