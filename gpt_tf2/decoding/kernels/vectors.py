"""What the kernels share that are written as LLVM instructions: kinds of values, and a few instructions."""

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, config

SETTINGS: Any = config
FEATURES = binding.get_host_cpu_features() if SETTINGS.CPU_NAME is None else {}  # else Numba compiles for another CPU
LANES = 16 if FEATURES.get("avx512f") else 8  # float32 numbers in a vector register
HAS_TILES = bool(FEATURES.get("avx512vnni"))
VECTORS = 4  # registers that a row's sums take
COLUMNS = VECTORS * LANES
CACHE_LINE = 64  # bytes
AHEAD = 16384  # bytes from what is read to what is fetched; measured in docs/lab-notes.md, "Many steps in one call"
# Whether instructions have memory fetched where it depends on the processor: docs/lab-notes.md, "Zen 4".
FETCHES = binding.get_host_cpu_name() != "znver4"
FLAGS = ("contract", "reassoc", "nsz")  # a product and its sum may be one instruction

BYTE, INT32, FLOATS = ir.IntType(8), ir.IntType(32), ir.VectorType(ir.FloatType(), LANES)
INDEX, INTEGERS = ir.IntType(64), ir.VectorType(INT32, LANES)


def repeat(builder: ir.IRBuilder, number: ir.Value, kind: ir.VectorType) -> ir.Value:
    """A vector of LANES times the same number."""
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), number, INT32(0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))


def fetch(builder: ir.IRBuilder, start: ir.Value, size: int, write: int = 0) -> None:
    """Has the processor fetch that many bytes of memory while it computes."""
    kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), INT32, INT32, INT32])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    for offset in range(0, size, CACHE_LINE):
        builder.call(prefetch, [builder.gep(start, [INT32(offset)]), INT32(write), INT32(3), INT32(1)])


def integer(number: int) -> ir.Constant:
    """A vector of LANES times a whole number."""
    return ir.Constant(INTEGERS, [number] * LANES)


def constant(number: float) -> ir.Constant:
    """A vector of LANES times a number."""
    return ir.Constant(FLOATS, [number] * LANES)
