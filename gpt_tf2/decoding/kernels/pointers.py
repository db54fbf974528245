"""Calling a kernel by its address.

Numba compiles a kernel anew within each that calls it, and four times within one that runs on all threads. A call by
address leaves it as it is, so that the network compiles in a third of the time.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function, unpack_tuple
from numba.core.errors import TypingError
from numba.extending import intrinsic


def find_address(kernel: Any, arguments: tuple) -> int:
    """The address of a kernel's code for arguments of these types. It is compiled if it is not kept."""
    kernel.compile(arguments)
    compiled = kernel.overloads[arguments]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def make_call(kernel: Any) -> Any:
    """A function (address, arguments) for kernels that calls a kernel at its address. It may return a number."""

    @intrinsic
    def call(_: Any, address: Any, arguments: Any) -> Any:
        kinds: tuple = tuple(arguments)
        if kinds not in kernel.overloads:
            raise TypingError(f"{kernel.__name__} has no address for {kinds}")
        result = kernel.overloads[kinds].signature.return_type

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            kind = context.call_conv.get_function_type(result, kinds)
            function = builder.inttoptr(values[0], kind.as_pointer())
            values = unpack_tuple(builder, values[1])
            status, value = context.call_conv.call_function(builder, function, result, kinds, values)
            with builder.if_then(status.is_error, likely=False):  # out of memory; other threads would wait forever
                abort = ir.FunctionType(ir.VoidType(), [])
                builder.call(get_or_insert_function(builder.module, abort, "llvm.trap"), [])
            return context.get_dummy_value() if result == types.none else value

        return result(types.int64, arguments), generate

    return call
