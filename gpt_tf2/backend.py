"""What is particular to the Keras backend that runs: starting it, and compiling a function to its graph."""

import contextlib
import ctypes
import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_tf2.errors import InputError

if TYPE_CHECKING:
    import keras

PROCESS_VARIABLES = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LOST_AFTER = 20  # seconds without a sign of life of another process of the run
# mallopt(3): one heap for all threads; the size from which on memory is taken from the system and given back; how much
# may lie free at the heap's end. Smaller ones cost speed, larger ones memory (docs/performance.md).
GIVE_BACK = {"M_ARENA_MAX": (-8, 1), "M_MMAP_THRESHOLD": (-3, 1 << 22), "M_TRIM_THRESHOLD": (-1, 1 << 28)}


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


def give_memory_back() -> None:
    """Lets TensorFlow, if it is not imported yet, hand what it frees back to the system.

    By default its oneDNN kernels keep all that they ever took, in pools that grow by doubling, and glibc does so below
    a size that grows.
    """
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        for option, value in GIVE_BACK.values():
            ctypes.CDLL(None).mallopt(option, value)


def trim() -> None:
    """Gives free pages among small pieces back to the system: hundreds of megabytes after a compilation."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def use_xla() -> bool:
    """JAX is XLA; TensorFlow gains by it on a GPU and loses on a CPU, where oneDNN is faster."""
    import keras

    if keras.backend.backend() == "jax":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def has_gpu() -> bool:
    """Whether TensorFlow runs on a GPU; it is imported only where there is a driver for one."""
    if not Path("/dev/nvidiactl").exists() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    start()
    return use_xla()


def has_fast_bfloat16() -> bool:
    """Whether the device has instructions for bfloat16: an Ampere GPU or newer, a TPU, or a CPU of AVX512-BF16 or AMX.

    XLA on a CPU does not use them.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        device = jax.local_devices()[0]
        if device.platform == "gpu":
            return float(device.compute_capability) >= 8
        return device.platform == "tpu"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(found.get("compute_capability", (0, 0)) >= (8, 0) for found in details)
    flags = text_of("/proc/cpuinfo").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def device_memory() -> float | None:
    """Bytes that training may take: a GPU's, or what is free in the machine; None where that is not told."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats()
        return float(stats["bytes_limit"]) if stats else free_memory()
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return free_memory()
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
        return min(float(mebibytes) for mebibytes in told) * 2**20
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def free_memory() -> float | None:
    """Bytes that this process may still take or has, by the system and by its control group; None if neither tells."""
    found = []
    available = re.search(r"MemAvailable:\s+(\d+) kB", text_of("/proc/meminfo"))
    if available:
        found.append(int(available[1]) * 1024.0)
    limit, used = text_of("/sys/fs/cgroup/memory.max").strip(), text_of("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        found.append(float(limit) - float(used))
    own = re.search(r"VmRSS:\s+(\d+) kB", text_of("/proc/self/status"))
    return min(found) + (int(own[1]) * 1024.0 if own else 0.0) if found else None


def text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


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
