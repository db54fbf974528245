"""Starting Keras with its backend, quietly, and joining the processes of one run."""

import contextlib
import os
import sys
from collections.abc import Iterator

from gpt_tf2.backend.memory import give_memory_back
from gpt_tf2.errors import InputError

PROCESS_VARIABLES = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOST_AFTER = 20  # seconds without a sign of life of another process of the run


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


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """Lets a module that is not yet imported seem not to be installed.

    TensorFlow imports JAX where it finds it, for a converter: half a second and 0.1 GB.
    """
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


def start(lean: bool = False) -> str:
    """Imports Keras with its backend and says on what it runs, as `TensorFlow on CPU`.

    Args:
        lean: whether memory matters more than a third of the speed, on TensorFlow's CPU; only the first start decides.

    Raises InputError if KERAS_BACKEND names another backend than tensorflow or jax, or one that is not installed.
    """
    wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
    if wanted not in ("tensorflow", "jax"):
        raise InputError(f"KERAS_BACKEND={wanted}: unknown here: set it to tensorflow or jax")
    os.environ["KERAS_BACKEND"] = wanted
    # TensorFlow takes oneDNN's products by itself only on a CPU of AVX-512; they are the faster on others, too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if lean:
        give_memory_back()
    try:
        if wanted == "jax":
            with quiet():
                import jax
                import keras

                join_processes()
                return f"JAX on {jax.local_devices()[0].device_kind}"
        with quiet(), without("jax"):
            import keras
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


def join_processes() -> None:
    """Joins the processes of one run, if JAX's variables name them: JAX_COORDINATOR_ADDRESS and the two others.

    Where a cluster's scheduler started them, JAX finds the two others by itself. Raises InputError if it cannot.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not address:
        return
    import jax

    if jax.distributed.is_initialized():
        return
    try:
        count, number = (int(os.environ[name]) if name in os.environ else None for name in PROCESS_VARIABLES)
        jax.config.update("jax_enable_recoverability", True)
        jax.distributed.initialize(address, count, number, heartbeat_timeout_seconds=LOST_AFTER)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"JAX_COORDINATOR_ADDRESS={address}: {error}: set {' and '.join(PROCESS_VARIABLES)}") from None
