"""What the machine has: a GPU, instructions for bfloat16."""

from gpt_tf2.backend.choice import has_driver
from gpt_tf2.backend.compiling import uses_xla
from gpt_tf2.backend.starting import start_backend
from gpt_tf2.storage.files import read_or_empty


def has_gpu() -> bool:
    """Whether the backend runs on a GPU; it is imported only where there is a driver for one."""
    if not has_driver():
        return False
    start_backend()
    return runs_on_gpu()


def runs_on_gpu() -> bool:
    """Whether the backend, which is started, computes on a GPU."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].platform == "gpu"
    return uses_xla()


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
    flags = read_or_empty("/proc/cpuinfo").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
