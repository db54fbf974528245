"""Compiling pure functions: XLA, TensorFlow's graphs with oneDNN, or JAX."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def use_xla() -> bool:
    """JAX is XLA; TensorFlow gains by it on a GPU and loses on a CPU, where oneDNN is faster."""
    import keras

    if keras.backend.backend() == "jax":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def compiled(model: "keras.Model", function: Callable[..., Any], donated: int | None = None) -> Callable[..., Any]:
    """`function(*arrays)`, which may use the model's weights but not change them, traced once a shape.

    On JAX the weights are arguments of the graph: what a traced function closes over would be copied into it.

    donated: the number of an argument whose memory may be used for the result, where the backend can.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True, jit_compile=use_xla())
    import jax

    @functools.partial(jax.jit, donate_argnums=() if donated is None else donated + 1)
    def stateless(weights: list[Any], *arrays: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(model.variables, weights, strict=True))):
            return function(*arrays)

    return lambda *arrays: stateless([variable.value for variable in model.variables], *arrays)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure function of nested arrays, compiled.

    XLA compiles it once a shape. Without XLA TensorFlow traces it once for all numbers of rows and tokens: which graph
    computes a step, and so its last bits, must not depend on the shapes that this process has seen before.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    if use_xla():
        return tf.function(function, reduce_retracing=True, jit_compile=True)
    traced, graphs = tf.function(lambda *arrays: function(*arrays)), {}

    def run(*arrays: Any) -> Any:
        if tf.config.functions_run_eagerly():
            return function(*arrays)
        leaves = keras.tree.flatten_with_path(arrays)
        key = tuple((path, None if x is None else (lasting_sizes(path, x), x.dtype)) for path, x in leaves)
        if key not in graphs:
            specs = [found and tf.TensorSpec(*found) for _, found in key]
            graphs[key] = traced.get_concrete_function(*keras.tree.pack_sequence_as(arrays, specs))
        return graphs[key](*arrays)

    return run


def lasting_sizes(path: tuple[Any, ...], array: Any) -> tuple[int | None, ...]:
    """The sizes of an array, with None for numbers of rows and tokens.

    Weights, which come by name, have no such; of other arrays only the channels last, of floats [B, T, C] or [K, C].
    """
    sizes = tuple(array.shape)
    if isinstance(path[-1], str):
        return sizes
    changing = len(sizes) - (len(sizes) in (2, 3) and "float" in str(array.dtype))
    return (None,) * changing + sizes[changing:]


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure elementwise function that is part of a kernel, in one pass over memory.

    XLA does that, also on a CPU: there oneDNN is the faster in products, and XLA in all between them.
    """
    import keras

    if keras.backend.backend() == "jax" or use_xla():
        return function
    import tensorflow as tf

    return tf.function(function, reduce_retracing=True, jit_compile=True)


def in_place(function: Callable[..., Any]) -> Callable[..., None]:
    """`function(state, *arrays) → state` as a function that changes a nest of variables, in their own memory.

    It is compiled by XLA on every device, and once for all variables of the same shapes.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=True, jit_compile=True)
        def assign(state: Any, *arrays: Any) -> None:
            new = function(tf.nest.map_structure(lambda variable: variable.read_value(), state), *arrays)
            for variable, value in zip(tf.nest.flatten(state), tf.nest.flatten(new), strict=True):
                variable.assign(value)

        return lambda state, *arrays: assign(keras.tree.map_structure(lambda variable: variable.value, state), *arrays)
    import jax

    run = jax.jit(function, donate_argnums=0)

    def replace(state: Any, *arrays: Any) -> None:
        new = run(keras.tree.map_structure(lambda variable: variable.value, state), *arrays)
        for variable, value in zip(keras.tree.flatten(state), keras.tree.flatten(new), strict=True):
            variable.assign(value)

    return replace


def value_of(variable: "keras.Variable") -> Any:
    """A variable's array, without a copy: let go of it before the variable is changed, or a copy is made then."""
    import keras

    if keras.backend.backend() == "jax":
        return variable.value
    import tensorflow as tf

    return tf.convert_to_tensor(variable.value)


def row_adder() -> Callable[[Any, Any, Any], Any]:
    """`add(array, rows, values)`: an array [N, …] with values [K, …] added to its rows [K], in its own memory.

    The array itself is lost.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return lambda array, rows, values: tf.raw_ops.InplaceAdd(x=array, i=rows, v=values)
    import jax

    return jax.jit(lambda array, rows, values: array.at[rows].add(values), donate_argnums=0)


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Runs what is compiled step by step instead, for debugging."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        with jax.disable_jit():
            yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
