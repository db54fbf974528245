"""Reading files from kernels, by the system's own function."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from gpt_tf2.decoding.kernels.vectors import BYTE, INT32

INT64 = ir.IntType(64)


def make_read_at(_: Any, file: Any, target: types.Array, start: Any, size: Any) -> Any:
    """The type and the instructions of `read_at`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        data = make_array(signature.args[1])(context, builder, arguments[1]).data
        kind = ir.FunctionType(INT64, [INT32, BYTE.as_pointer(), INT64, INT64])
        pread = get_or_insert_function(builder.module, kind, "pread")
        file = builder.trunc(arguments[0], INT32)
        return builder.call(pread, [file, builder.bitcast(data, BYTE.as_pointer()), arguments[3], arguments[2]])

    return types.int64(types.int64, target, types.int64, types.int64), generate


read_at: Any = intrinsic(make_read_at)  # (descriptor, array, start, size): reads bytes into an array, returns how many
