"""Memory: how much there is, and giving it back."""

import contextlib
import ctypes
import os
import re
import subprocess

from gpt_tf2.storage.files import read_or_empty

# mallopt(3): one heap for all threads; the size from which on memory is taken from the system and given back; how much
# may lie free at the heap's end. Smaller ones cost speed, larger ones memory (docs/performance.md).
GIVE_BACK = {"M_ARENA_MAX": (-8, 1), "M_MMAP_THRESHOLD": (-3, 1 << 22), "M_TRIM_THRESHOLD": (-1, 1 << 28)}


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
    available = re.search(r"MemAvailable:\s+(\d+) kB", read_or_empty("/proc/meminfo"))
    if available:
        found.append(int(available[1]) * 1024.0)
    limit, used = (
        read_or_empty("/sys/fs/cgroup/memory.max").strip(),
        read_or_empty("/sys/fs/cgroup/memory.current").strip(),
    )
    if limit.isdigit() and used.isdigit():
        found.append(float(limit) - float(used))
    own = re.search(r"VmRSS:\s+(\d+) kB", read_or_empty("/proc/self/status"))
    return min(found) + (int(own[1]) * 1024.0 if own else 0.0) if found else None


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
