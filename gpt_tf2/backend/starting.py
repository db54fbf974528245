"""Starting Keras with its backend, quietly, and joining the processes of one run."""

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType
from typing import Any

from gpt_tf2.backend.choice import find_backend, has_driver, has_jax_for_gpu, is_installed, requested_backend
from gpt_tf2.backend.memory import return_freed_memory
from gpt_tf2.errors import InputError
from gpt_tf2.storage.machine import user_cache

PROCESS_VARIABLES = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LATE = ("IPython", "matplotlib.patches", "matplotlib.pyplot")  # of what Keras imports
LOST_AFTER = 20  # seconds without a sign of life of another process of the run


def is_first_process() -> bool:
    """Whether this is the first process of its run, or the only one. Asked before the backend starts."""
    return os.environ.get("JAX_PROCESS_ID", "0") == "0"


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


@contextlib.contextmanager
def pause_collection() -> Iterator[None]:
    """Do not look for garbage within the context.

    An import makes hundreds of thousands of objects and no garbage, which Python would look for again and again: half a
    second of the two that Keras and TensorFlow take.
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.freeze()
            gc.enable()


@contextlib.contextmanager
def import_fast() -> Iterator[None]:
    """Import Keras and its backend within the context in half the time.

    Nothing looks for garbage meanwhile, nor later in what was imported. What Keras imports only for its pictures and
    for notebooks is executed when somebody uses it.
    """
    if "keras" in sys.modules:  # nothing is left to import, and the objects are somebody else's
        yield
        return
    finder = LateFinder()
    sys.meta_path.insert(0, finder)
    try:
        with pause_collection():
            yield
    finally:
        sys.meta_path.remove(finder)


class LateFinder(MetaPathFinder):
    """Finds the modules `LATE` such that importing them executes them when one of their names is first used."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in LATE else None
        if spec and spec.loader:
            spec.loader = LazyLoader(spec.loader)
        return spec


def start_backend(lean: bool = False) -> str:
    """Import Keras with its backend and return what it runs on, such as `TensorFlow on CPU`.

    The backend is the one of `find_backend`. If JAX turns out not to see the GPU for which it was chosen, TensorFlow
    runs. A GPU that nothing uses is reported on stderr, once.

    Args:
        lean: whether memory matters more than a third of the speed, on TensorFlow's CPU; only the first start decides.

    Raises InputError if KERAS_BACKEND names another backend than tensorflow or jax, or one that is not installed.
    """
    requested, backend = requested_backend(), find_backend()
    if lean:
        return_freed_memory()
    try:
        if backend == "jax" and not requested and is_installed("tensorflow"):
            backend = "jax" if import_jax().default_backend() == "gpu" else "tensorflow"
        os.environ["KERAS_BACKEND"] = backend
        device, is_gpu = start_jax() if backend == "jax" else start_tensorflow()
    except ImportError as error:
        raise InputError(f"KERAS_BACKEND={backend}: cannot be imported ({error}): install it") from None
    import keras

    if keras.backend.backend() != backend:
        raise InputError(f"KERAS_BACKEND={backend}: Keras already runs on {keras.backend.backend()}: set it earlier")
    unasked = requested == "tensorflow" and has_jax_for_gpu()  # JAX could use it
    if not is_gpu and has_driver() and not unasked:
        report_once("nothing installed can use this machine's NVIDIA GPU: pip install '.[gpu]'; running on the CPU")
    return device


def start_jax() -> tuple[str, bool]:
    """Imports Keras on JAX. Returns the device, and whether it is a GPU."""
    try:
        device = import_jax().local_devices()[0]
    except (RuntimeError, AssertionError) as error:  # what JAX_PLATFORMS names is not there
        asked = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
        raise InputError(
            f"{asked}: JAX cannot start there ({error or 'no such device'}): unset it, or pip install '.[gpu]'"
        ) from None
    with silence_stderr(), import_fast():
        import keras  # noqa: F401
    return f"JAX on {device.device_kind}", device.platform == "gpu"


def import_jax() -> Any:
    """Imports JAX, with memory taken as it is needed and compilations kept for later processes, and joins the run."""
    # By default JAX takes three quarters of a GPU's memory at once, and never more.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # the former name, which JAX refuses beside the new one
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.92")
    with silence_stderr(), import_fast():
        import jax

        keep_compilations()
        join_processes()
        jax.local_devices()  # here, where what its parts in C++ write is dropped
    return jax


def keep_compilations() -> None:
    """Lets JAX keep what it compiles in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another."""
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir:
        return
    cache = user_cache()
    if cache is None:
        return
    config.update("jax_compilation_cache_dir", str(cache / "jax"))
    config.update("jax_persistent_cache_min_compile_time_secs", 0)  # also what compiles in less than a second
    config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def start_tensorflow() -> tuple[str, bool]:
    """Imports Keras on TensorFlow. Returns the device, and whether it is a GPU."""
    # TensorFlow takes oneDNN's products by itself only on a CPU of AVX-512; they are the faster on others, too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with silence_stderr(), hide_module("jax"), import_fast():
        import keras  # noqa: F401
        import tensorflow as tf

        # It warns of graphs that are traced anew for another shape, as batches of examples need.
        tf.get_logger().setLevel("ERROR")
        gpus = tf.config.list_physical_devices("GPU")
        with contextlib.suppress(RuntimeError):  # TensorFlow runs already, as whoever started it chose
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
        details = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return f"TensorFlow on {details[0] if details else 'CPU'}", bool(details)


def import_tensorflow_for_files() -> Any:
    """Imports TensorFlow to read or write its files. Beside JAX it gets no GPU, whose memory it would take.

    Raises InputError if it is not installed.
    """
    # TensorFlow imports Keras, so the backend is settled first.
    if find_backend() == "jax":
        start_backend()
    backend = os.environ["KERAS_BACKEND"] = find_backend()
    try:
        with silence_stderr(), contextlib.nullcontext() if backend == "jax" else hide_module("jax"):
            import tensorflow as tf

            if backend == "jax":
                with contextlib.suppress(RuntimeError):  # TensorFlow runs already, as whoever started it chose
                    tf.config.set_visible_devices([], "GPU")
    except ImportError as error:
        raise InputError(f"writing TensorFlow 1 checkpoints needs it ({error}): pip install tensorflow") from None
    return tf


def compute_exactly() -> None:
    """Makes products of float32 exact to float32 from now on: both backends round to TF32 on a GPU by default.

    Products of bfloat16 stay as fast. JAX_DEFAULT_MATMUL_PRECISION overrides on JAX.
    """
    if find_backend() == "jax":
        import jax

        config: Any = jax.config
        if config.jax_default_matmul_precision is None:
            config.update("jax_default_matmul_precision", "highest")
        return
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


@functools.cache
def report_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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


def leave_processes() -> None:
    """Leaves the other processes of a run, the first process last: it holds JAX's coordinator.

    If the coordinator ended before them, JAX would abort them.
    """
    jax = sys.modules.get("jax")
    if not jax or not jax.distributed.is_initialized():
        return
    if jax.process_index() > 0:
        jax.distributed.shutdown()
        return
    from jax.experimental.multihost_utils import ProcessFailureError, live_devices

    with contextlib.suppress(ProcessFailureError), live_devices(jax.devices()):
        pass  # ends when the others have left, or are found dead
