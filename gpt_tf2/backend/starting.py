"""Starting Keras with its backend, without its messages, and joining the processes of one run."""

import contextlib
import os
import sys
from collections.abc import Iterator

from gpt_tf2.backend.memory import return_freed_memory
from gpt_tf2.errors import InputError

PROCESS_VARIABLES = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT_TIMEOUT = 20  # seconds without a heartbeat after which another process of the run counts as lost


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Discard what C++ code writes to stderr within the context. Python exceptions still come through."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


@contextlib.contextmanager
def hide_module(name: str) -> Iterator[None]:
    """Make a module that is not yet imported look as if it were not installed.

    TensorFlow imports JAX for a converter if it is installed, which takes half a second and 0.1 GB.
    """
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


def start_backend(lean: bool = False) -> str:
    """Import Keras with its backend and return what it runs on, such as `TensorFlow on CPU`.

    Args:
        lean: whether saving memory is worth a third of the speed, for TensorFlow on a CPU. Only the first call decides.

    Raises InputError if KERAS_BACKEND names another backend than tensorflow or jax, or one that is not installed.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in ("tensorflow", "jax"):
        raise InputError(f"KERAS_BACKEND={backend}: not supported: set it to tensorflow or jax")
    os.environ["KERAS_BACKEND"] = backend
    # By default TensorFlow uses oneDNN's matrix products only on a CPU with AVX-512; they are faster on others, too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if lean:
        return_freed_memory()
    try:
        if backend == "jax":
            with silence_stderr():
                import jax
                import keras

                join_processes()
                return f"JAX on {jax.local_devices()[0].device_kind}"
        with silence_stderr(), hide_module("jax"):
            import keras
            import tensorflow as tf

            # It warns of graphs that are traced again for another shape, which batches of examples need.
            tf.get_logger().setLevel("ERROR")
            gpus = tf.config.list_physical_devices("GPU")
            with contextlib.suppress(RuntimeError):  # TensorFlow was started before, with its caller's choice
                for gpu in gpus:
                    tf.config.experimental.set_memory_growth(gpu, True)
            details = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    except ImportError as error:
        raise InputError(f"KERAS_BACKEND={backend}: cannot be imported ({error}): install it") from None
    assert keras.backend.backend() == backend
    return f"TensorFlow on {details[0] if details else 'CPU'}"


def join_processes() -> None:
    """Join the processes of one run if JAX_COORDINATOR_ADDRESS is set.

    JAX_NUM_PROCESSES and JAX_PROCESS_ID say how many there are and which this is; under a cluster's scheduler JAX finds
    both by itself. Raises InputError if joining fails.
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
        jax.distributed.initialize(address, count, number, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"JAX_COORDINATOR_ADDRESS={address}: {error}: set {' and '.join(PROCESS_VARIABLES)}") from None
