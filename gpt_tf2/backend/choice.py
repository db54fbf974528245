"""Which backend runs, found out without importing one: JAX on an NVIDIA GPU that it can use, otherwise TensorFlow."""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from gpt_tf2.errors import InputError

BACKENDS = ("tensorflow", "jax")
# NVIDIA's driver on Linux, and in Windows' subsystem for it.
DRIVER_FILES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1")
JAX_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")  # JAX uses a GPU if it is installed with one of them


def find_backend() -> str:
    """The backend that runs: the one asked for, or the one that suits the machine.

    Raises InputError if KERAS_BACKEND names another than `BACKENDS`.
    """
    return requested_backend() or choose_backend(has_driver() and has_jax_for_gpu(), is_installed("tensorflow"))


def requested_backend() -> str | None:
    """The backend that KERAS_BACKEND names, or that Keras already runs on; None if nobody has chosen one.

    Raises InputError if KERAS_BACKEND names another than `BACKENDS`.
    """
    requested = os.environ.get("KERAS_BACKEND")
    if not requested and "keras" in sys.modules:
        requested = sys.modules["keras"].backend.backend()
    if requested and requested not in BACKENDS:
        raise InputError(f"KERAS_BACKEND={requested}: unknown here: set it to tensorflow or jax")
    return requested or None


def choose_backend(jax_has_gpu: bool, has_tensorflow: bool) -> str:
    """The backend that suits a machine.

    Args:
        jax_has_gpu: whether there is an NVIDIA GPU, and JAX with its part for it.
        has_tensorflow: whether TensorFlow is installed.
    """
    return "jax" if jax_has_gpu or not has_tensorflow else "tensorflow"


def has_driver(files: Iterable[str] = DRIVER_FILES) -> bool:
    """Whether there is a driver of an NVIDIA GPU, whose GPUs are not hidden by CUDA_VISIBLE_DEVICES."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and any(Path(file).exists() for file in files)


def has_jax_for_gpu(plugins: Iterable[str] = JAX_PLUGINS) -> bool:
    """Whether JAX is installed with one of its plugins for CUDA."""
    return is_installed("jax") and any(is_distribution(name) for name in plugins)


def is_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def is_installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None
