"""What the machine has: a GPU, instructions for bfloat16."""

import os
from pathlib import Path

from gpt_tf2.backend.compiling import uses_xla
from gpt_tf2.backend.starting import start_backend
from gpt_tf2.storage.files import read_or_empty


def has_gpu() -> bool:
    """Whether TensorFlow has a GPU. It is imported only if the machine has a driver for one."""
    if not Path("/dev/nvidiactl").exists() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    start_backend()
    return uses_xla()


def runs_on_gpu() -> bool:
    """Whether the backend, which is started, computes on a GPU."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].platform == "gpu"
    return uses_xla()


def has_fast_bfloat16() -> bool:
    """Whether the device has bfloat16 instructions: an Ampere GPU or newer, a TPU, a CPU with AVX512-BF16 or AMX.

    False for JAX on a CPU, where XLA does not use them.
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
        return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    flags = read_or_empty("/proc/cpuinfo").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
