"""Calling a kernel by its address.

Numba compiles a kernel anew within each that calls it, and four times within one that runs on all threads. A call by
address leaves it as it is, so that the network compiles in a third of the time.
"""

from collections.abc import Callable, Collection
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function, unpack_tuple
from numba.core.errors import TypingError
from numba.extending import intrinsic

Kinds = tuple[types.Type, ...]  # of a kernel's arguments


def find_address(kernel: Any, arguments: Kinds, result: types.Type) -> int:
    """The address of a kernel's code for arguments of these types. It is compiled if it is not kept.

    Raises TypingError if it returns something else than the result.
    """
    kernel.compile(arguments)
    compiled = kernel.overloads[arguments]
    if compiled.signature.return_type != result:
        raise TypingError(f"{kernel.__name__} returns {compiled.signature.return_type}, not {result}")
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def make_call(kernel: Any, result: types.Type, list_kinds: Callable[[], Collection[Kinds]]) -> Any:
    """A function (address, arguments) for kernels that calls a kernel at its address.

    The kernel need not be compiled yet when its caller is, so that two processes may compile them at once.

    Args:
        result: the type of what the kernel returns.
        list_kinds: returns the types of arguments for which it has an address.
    """

    @intrinsic
    def call(_: Any, address: Any, arguments: Any) -> Any:
        kinds = tuple(arguments)
        if kinds not in list_kinds():
            raise TypingError(f"{kernel.__name__} has no address for {kinds}")

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
