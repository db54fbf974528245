"""Float32 weights in 28 bits without loss: the weights of a block have few exponents, so each needs only its number.

Decoding reads every weight for each token, so an eighth less to read is nearly an eighth less time.

A block of COLUMNS columns begins with its EXPONENTS, as the bits of float32 numbers. For each input follow, for every
LANES columns, the low 16 bits of each weight and a byte with its sign and the rest of its mantissa, then the numbers of
the exponents, two in a byte. The lanes of a vector take theirs from two int32 numbers in turn.

A weight with another exponent, one in some ten thousand of a normal distribution, is zero there. It stands apart: see
`shorten`.
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from gpt_tf2.backend.numba_kernels import compile_kernel
from gpt_tf2.decoding.kernels.vectors import BYTE, FLOATS, INDEX, INT32, INTEGERS, LANES, VECTORS

EXPONENTS = 16  # the first is that of zero
HEADER = 4 * EXPONENTS  # bytes
REST = 3 * LANES  # bytes of a vector's signs and mantissas
STEP = VECTORS * (REST + LANES // 2)  # bytes for each input


@compile_kernel
def shorten(bits: np.ndarray, out: np.ndarray, values: np.ndarray, places: np.ndarray) -> int:
    """Shortens a block.

    Args:
        bits: uint32 [K, COLUMNS], those of its float32 weights.
        out: uint8 [HEADER + STEP·K], written.
        values: float32 [any], written as far as there is room: the weights that stand apart.
        places: float32 as `values`, written: their indices in the block, counted through.

    Returns:
        How many weights stand apart.
    """
    counts = np.zeros(256, np.int64)
    for k in range(len(bits)):
        for column in range(bits.shape[1]):
            counts[bits[k, column] >> 23 & 255] += 1
    counts[0] = bits.size + 1  # so that zero comes first
    numbers, header = np.full(256, -1), out[:HEADER].view(np.uint32)
    for number in range(EXPONENTS):
        exponent = counts.argmax()
        numbers[exponent], header[number], counts[exponent] = number, exponent << 23, -1
    apart = 0
    for k in range(len(bits)):
        step = out[HEADER + k * STEP : HEADER + (k + 1) * STEP]
        step[VECTORS * REST :] = 0
        for column in range(bits.shape[1]):
            weight = bits[k, column]
            number = numbers[weight >> 23 & 255]
            if number < 0:
                if apart < len(values):
                    values[apart] = np.uint32(weight).view(np.float32)
                    places[apart] = k * bits.shape[1] + column
                apart += 1
                number, weight = 0, np.uint32(0)
            step[3 * column] = weight & 255
            step[3 * column + 1] = weight >> 8 & 255
            step[3 * column + 2] = (weight >> 24 & 128) | (weight >> 16 & 127)
            vector, lane = column // LANES, column % LANES
            nibble = vector * LANES + lane % 2 * (LANES // 2) + lane // 2
            step[VECTORS * REST + nibble // 2] |= number << 4 * (nibble % 2)
    return apart


def read_exponents(builder: ir.IRBuilder, block: ir.Value) -> ir.Value:
    """The exponents of a block, which begins at a pointer to bytes."""
    return builder.load(builder.bitcast(block, INTEGERS.as_pointer()), align=4)


def read_step(builder: ir.IRBuilder, exponents: ir.Value, block: ir.Value, number: ir.Value) -> list[ir.Value]:
    """The VECTORS vectors of floats of an input of a block."""
    place = builder.gep(block, [builder.add(builder.mul(number, INDEX(STEP)), INDEX(HEADER))])
    return [read_vector(builder, exponents, place, i) for i in range(VECTORS)]


def read_vector(builder: ir.IRBuilder, exponents: ir.Value, place: ir.Value, vector: int) -> ir.Value:
    """A vector of floats of an input, whose bytes begin at a place."""
    bytes = ir.VectorType(BYTE, 4 * LANES)  # some more than are needed
    rest = builder.load(builder.bitcast(builder.gep(place, [INDEX(vector * REST)]), bytes.as_pointer()), align=1)
    spread = [3 * lane + byte for lane in range(LANES) for byte in (0, 1, 2, 2)]
    rest = builder.shuffle_vector(rest, rest, ir.Constant(ir.VectorType(INT32, 4 * LANES), spread))
    rest = builder.and_(builder.bitcast(rest, INTEGERS), ir.Constant(INTEGERS, [0x807FFFFF] * LANES))
    pair = builder.bitcast(builder.gep(place, [INDEX(VECTORS * REST + vector * LANES // 2)]), INDEX.as_pointer())
    pairs = ir.VectorType(INDEX, LANES // 2)
    repeated = builder.insert_element(ir.Constant(pairs, ir.Undefined), builder.load(pair, align=1), INT32(0))
    repeated = builder.shuffle_vector(
        repeated, repeated, ir.Constant(ir.VectorType(INT32, LANES // 2), [0] * (LANES // 2))
    )
    shifts = ir.Constant(INTEGERS, [lane // 2 * 4 for lane in range(LANES)])
    numbers = builder.lshr(builder.bitcast(repeated, INTEGERS), shifts)
    kind = ir.FunctionType(INTEGERS, [INTEGERS, INTEGERS])
    choose = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.permvar.si.512")  # by four bits
    return builder.bitcast(builder.or_(rest, builder.call(choose, [exponents, numbers])), FLOATS)
