"""Compiling pure functions, with XLA or as TensorFlow graphs with oneDNN."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras


def uses_xla() -> bool:
    """Whether kernels are compiled by XLA: always on JAX, on TensorFlow with a GPU. On a CPU oneDNN is faster."""
    import keras

    if keras.backend.backend() == "jax":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def compile_with_model(
    model: "keras.Model", function: Callable[..., Any], donated: int | None = None
) -> Callable[..., Any]:
    """Compile `function(*arrays)`, which may read the model's weights but not change them. It is traced per shape.

    Args:
        donated: number of an argument whose memory the result may reuse, where the backend can; the caller must not
            use that argument again.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False, reduce_retracing=True, jit_compile=uses_xla())
    import jax

    # JAX would copy weights into the graph if the function closed over them; so they are arguments.
    @functools.partial(jax.jit, donate_argnums=() if donated is None else donated + 1)
    def stateless(weights: list[Any], *arrays: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(model.variables, weights, strict=True))):
            return function(*arrays)

    return lambda *arrays: stateless([variable.value for variable in model.variables], *arrays)


def compile_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a pure function of nested arrays.

    XLA compiles it per shape. Without XLA, TensorFlow traces it once for all numbers of sequences and tokens: the graph
    that computes a step, and so its last bits, must not depend on the shapes that this process has seen before.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    if uses_xla():
        return tf.function(function, autograph=False, reduce_retracing=True, jit_compile=True)
    traced, graphs = tf.function(lambda *arrays: function(*arrays), autograph=False), {}

    def run(*arrays: Any) -> Any:
        if tf.config.functions_run_eagerly():
            return function(*arrays)
        leaves = keras.tree.flatten_with_path(arrays)
        key = tuple((path, None if x is None else (relax_shape(path, x), x.dtype)) for path, x in leaves)
        if key not in graphs:
            specs = [spec and tf.TensorSpec(*spec) for _, spec in key]
            graphs[key] = traced.get_concrete_function(*keras.tree.pack_sequence_as(arrays, specs))
        return graphs[key](*arrays)

    return run


def relax_shape(path: tuple[Any, ...], array: Any) -> tuple[int | None, ...]:
    """Return an array's shape, with None for the sizes that depend on the batch.

    Weights come by name, so their path ends in a string, and they keep their shape. Of other arrays only the channels
    stay: the last size of floats [B, T, C] or [K, C].
    """
    shape = tuple(array.shape)
    if isinstance(path[-1], str):
        return shape
    relaxed = len(shape) - (len(shape) in (2, 3) and "float" in str(array.dtype))
    return (None,) * relaxed + shape[relaxed:]


def fuse(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a pure elementwise function within a kernel into one pass over memory.

    Decorator. Within kernels that oneDNN runs, XLA compiles it: oneDNN is faster in matrix products, XLA between them.
    """
    import keras

    if keras.backend.backend() == "jax" or uses_xla():
        return function
    import tensorflow as tf

    return tf.function(function, autograph=False, jit_compile=True)


def compile_in_place(function: Callable[..., Any]) -> Callable[..., None]:
    """Compile `function(state, *arrays) → state` into an update of nested variables, in their own memory.

    XLA compiles it on every device, once for all variables of the same shapes.

    Example:
        >>> halve = compile_in_place(lambda state: state / 2)
        >>> halve(variable)
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False, reduce_retracing=True, jit_compile=True)
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


def read_value(variable: "keras.Variable") -> Any:
    """Return a variable's array without copying it. Drop it before the variable changes, or it is copied then."""
    import keras

    if keras.backend.backend() == "jax":
        return variable.value
    import tensorflow as tf

    return tf.convert_to_tensor(variable.value)


def copy_array(array: Any, dtype: str | None = None) -> Any:
    """Return an array of NumPy's, copied to the backend, in a dtype.

    As Keras does it, but TensorFlow on a CPU copies an array twice then, the first time into memory of NumPy's, whose
    huge pages can take the system a second per GB.
    """
    from keras import ops

    if uses_xla():
        return ops.convert_to_tensor(array, dtype=dtype)
    import tensorflow as tf

    copy = tf.raw_ops.DeepCopy(x=array)
    return ops.cast(copy, dtype) if dtype else copy


def make_row_adder() -> Callable[[Any, Any, Any], Any]:
    """Return `add(array, rows, values)`: adds values [K, …] to the rows [K] of an array [N, …], in its own memory.

    The array must not be used afterwards.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return lambda array, rows, values: tf.raw_ops.InplaceAdd(x=array, i=rows, v=values)
    import jax

    return jax.jit(lambda array, rows, values: array.at[rows].add(values), donate_argnums=0)


@contextlib.contextmanager
def run_eagerly() -> Iterator[None]:
    """Run compiled functions operation by operation within the context, for debugging."""
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
