"""What is particular to the Keras backend that runs: starting it, and compiling a function to its graph."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_tf2.errors import InputError

if TYPE_CHECKING:
    import keras


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what C++ parts write to stderr while a library is imported; Python exceptions still come through."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def start() -> str:
    """Imports Keras with its backend and says on what it runs, as `TensorFlow on CPU`.

    Raises InputError if KERAS_BACKEND names another backend than tensorflow or jax, or one that is not installed.
    """
    wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
    if wanted not in ("tensorflow", "jax"):
        raise InputError(f"KERAS_BACKEND={wanted}: unknown here: set it to tensorflow or jax")
    os.environ["KERAS_BACKEND"] = wanted
    try:
        with quiet():
            import keras

            if wanted == "jax":
                import jax

                return f"JAX on {jax.devices()[0].device_kind}"
            import tensorflow as tf

            # It warns of graphs that are traced anew for another shape, as batches of examples need.
            tf.get_logger().setLevel("ERROR")
            gpus = tf.config.list_physical_devices("GPU")
            with contextlib.suppress(RuntimeError):  # TensorFlow runs already, as whoever started it chose
                for gpu in gpus:
                    tf.config.experimental.set_memory_growth(gpu, True)
            details = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    except ImportError as error:
        raise InputError(f"KERAS_BACKEND={wanted}: cannot be imported ({error}): install it") from None
    assert keras.backend.backend() == wanted
    return f"TensorFlow on {details[0] if details else 'CPU'}"


def use_xla() -> bool:
    """JAX is XLA; TensorFlow gains by it on a GPU and loses on a CPU, where oneDNN is faster."""
    import keras

    if keras.backend.backend() == "jax":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def has_fast_bfloat16() -> bool:
    """Whether the device has instructions for bfloat16: an Ampere GPU or newer, a TPU, or a CPU of AVX512-BF16 or AMX.

    XLA on a CPU does not use them.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform == "gpu":
            return float(device.compute_capability) >= 8
        return device.platform == "tpu"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(found.get("compute_capability", (0, 0)) >= (8, 0) for found in details)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def compiled(model: "keras.Model", function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(*arrays)`, which may use the model's weights but not change them, traced once a shape.

    On JAX the weights are arguments of the graph: what a traced function closes over would be copied into it.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True)
    import jax

    @jax.jit
    def stateless(weights: list[Any], *arrays: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(model.variables, weights, strict=True))):
            return function(*arrays)

    return lambda *arrays: stateless([variable.value for variable in model.variables], *arrays)
