"""Memory: how much is available, and returning it to the system."""

import contextlib
import ctypes
import math
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from gpt_tf2.storage.files import read_or_empty

MAP_NORESERVE = 0x4000  # of mmap(2) on x86 and ARM; Python has a name for it from 3.13 on
# mallopt(3) options and values, measured for docs/performance.md. Smaller sizes cost speed, larger ones memory.
MALLOC_OPTIONS = {
    "M_ARENA_MAX": (-8, 1),  # one heap for all threads
    "M_MMAP_THRESHOLD": (-3, 1 << 22),  # bytes from which an allocation is returned to the system when freed
    "M_TRIM_THRESHOLD": (-1, 1 << 28),  # free bytes at the heap's end from which they are returned
}


def measure_device_memory() -> float | None:
    """Return the bytes that training may use: a GPU's memory or the machine's free memory. None if unknown."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        device = jax.local_devices()[0]
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return float(limit) if limit else None if device.platform == "gpu" else measure_free_memory()
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return measure_free_memory()
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        sizes = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
        return min(float(mebibytes) for mebibytes in sizes) * 2**20
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def measure_free_memory() -> float | None:
    """Return the bytes that this process has or may still take, within the system and its control group.

    None if neither says.
    """
    limits = []
    available = re.search(r"MemAvailable:\s+(\d+) kB", read_or_empty("/proc/meminfo"))
    if available:
        limits.append(int(available[1]) * 1024.0)
    limits += measure_group_rooms(Path("/sys/fs/cgroup"), read_or_empty("/proc/self/cgroup"))
    return min(limits) + measure_own_memory() if limits else None


def measure_group_rooms(root: Path, groups: str) -> list[float]:
    """Return the bytes that may still be taken in each control group with a limit.

    Args:
        root: the folder of the system's groups, version 2.
        groups: what the system says of a process's groups: a line `0::/system.slice/x.service`, which is within
            /system.slice and /.
    """
    rooms = []
    named = re.search(r"^0::/(.*)$", groups, re.MULTILINE)
    own = root / (named[1] if named else "")
    for folder in [own, *own.parents]:
        if folder.is_relative_to(root):
            limit, used = (read_or_empty(str(folder / name)).strip() for name in ("memory.max", "memory.current"))
            rooms += [float(limit) - float(used)] if limit.isdigit() and used.isdigit() else []
    return rooms


def measure_own_memory() -> float:
    """Return the bytes that this process has; 0 if the system does not say."""
    own = re.search(r"VmRSS:\s+(\d+) kB", read_or_empty("/proc/self/status"))
    return int(own[1]) * 1024.0 if own else 0.0


def measure_peak_memory() -> float | None:
    """Return the most bytes that this process has held so far: of the GPU's memory if it uses one. None if unknown."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        device = jax.local_devices()[0]
        if device.platform == "gpu":
            return (device.memory_stats() or {}).get("peak_bytes_in_use")
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    peak = re.search(r"VmHWM:\s+(\d+) kB", read_or_empty("/proc/self/status"))
    return int(peak[1]) * 1024.0 if peak else None


def return_freed_memory() -> None:
    """Make TensorFlow return the memory it frees to the system; call it before TensorFlow is imported.

    By default oneDNN's kernels keep all memory they ever took, in pools that grow by doubling, and glibc keeps
    allocations below a size that grows.
    """
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        for option, value in MALLOC_OPTIONS.values():
            ctypes.CDLL(None).mallopt(option, value)


def reserve_zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return an array of zeros, aligned to pages, of which only those that are written take memory.

    It may be larger than the memory.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if sys.platform != "linux":
        return np.zeros(shape, dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, max(1, size), flags=flags), dtype, math.prod(shape)).reshape(shape)


def trim_heap() -> None:
    """Return free pages between small allocations to the system: hundreds of megabytes after a compilation."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def release_pages(path: Path) -> None:
    """Give back the memory of a file that a library has mapped to read it. What is read again comes from the disk."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        libc = ctypes.CDLL(None)
        for line in read_or_empty("/proc/self/maps").splitlines():
            span, *_, name = line.split(maxsplit=5)
            if name == str(path):
                begin, end = (int(address, 16) for address in span.split("-"))
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
