"""What the functions that Numba compiles share: compiler options, and a maximum and an exponential that vectorize."""

import contextlib
import functools
import glob
import math
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding

# Before Numba is imported: its idle threads would spin on the cores that LiteRT's threads need. Where our own kernels
# run instead, they spin from one step to the next, up to a millisecond: to wake one takes as long as 50 µs. Which will
# run is not known yet: LiteRT is slower on such a processor.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if binding.get_host_cpu_features().get("avx512vnni"):
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
from gpt_tf2.backend.starting import hide_module, pause_collection

# SciPy's import, for products of matrices that no kernel has, takes 0.1 s.
with pause_collection(), hide_module("scipy.linalg"):
    import numba.np.arraymath  # noqa: F401
    from numba import njit
    from numba.core.caching import FunctionCache, IndexDataCacheFile

f32 = np.float32
LOG2_E, LN_2 = f32(math.log2(math.e)), f32(math.log(2))
# Sums may be reordered, so that they vectorize; infinities keep their meaning.
JIT_OPTIONS: dict[str, Any] = {
    "fastmath": {"nnan", "nsz", "arcp", "contract", "afn", "reassoc"},
    "error_model": "numpy",
}


@functools.cache
def stamp_kernels() -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files whose kernels others call."""
    package = Path(__file__).parent.parent
    files = [Path(__file__), *sorted((package / "decoding" / "kernels").glob("*.py"))]
    return tuple((file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()])


class ForgivingCache(FunctionCache):
    """Numba's cache of machine code, where any failure to read or write it only means that it is compiled again.

    A kernel's code holds that of the kernels that it calls, so a change of any file of kernels makes all code outdated.
    Numba counts the files of a kernel's code. Two processes that compile at once would give theirs the same number, and
    the index of one would name the code of the other.
    """

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            self._cache_path, self._impl.filename_base, (self._impl.locator.get_source_stamp(), stamp_kernels())
        )
        self._cache_file._data_name_pattern = f"{self._impl.filename_base}.{{number:d}}.{secrets.token_hex(4)}.nbc"

    def load_overload(self, *arguments: Any) -> Any | None:
        """Returns the code of a function for its types; None if it is not cached or damaged."""
        try:
            with pause_collection():  # the first makes Numba list all that it can compile
                return super().load_overload(*arguments)
        except Exception:  # unpickling a damaged file may raise any
            with contextlib.suppress(Exception):
                self.flush()  # or it could not be replaced either
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keeps the code of a function for its types, if there is space for it."""
        with contextlib.suppress(Exception):
            if not self._cache_file._load_index():  # all code is of other versions of the files
                for path in Path(self._cache_path).glob(f"{glob.escape(self._impl.filename_base)}.*.nbc"):
                    with contextlib.suppress(OSError):  # another process may remove them at the same time
                        path.unlink()
            super().save_overload(*arguments)


def is_kept(kernel: Any, arguments: tuple) -> bool:
    """Whether a kernel's machine code is kept for arguments of these types of Numba, or has no place."""
    if not isinstance(kernel._cache, ForgivingCache):
        return True
    with contextlib.suppress(Exception):  # a KeyError, or any other if the index is damaged
        key = kernel._cache._index_key(arguments, kernel.targetctx.codegen())
        file = kernel._cache._cache_file
        return Path(file._data_path(file._load_index()[key])).exists()
    return False


def compile_kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compiles a function with `JIT_OPTIONS` when it first runs, and caches its machine code where there is a place.

    Example:
        >>> @compile_kernel(parallel=True)
        ... def add(x, y):
        ...     return x + y
        >>> add(1, 2)
        3
    """
    if function is None:
        return functools.partial(compile_kernel, **options)
    kernel = njit(**JIT_OPTIONS, **options)(function)
    with contextlib.suppress(RuntimeError, OSError):  # neither beside the code nor in the user's cache folder
        kernel._cache = ForgivingCache(function)  # Numba has no public way: `cache=True` raises where none is
    return kernel


@compile_kernel
def find_largest(x: np.ndarray) -> np.float32:
    """The largest of float32 [N] without NaN. Compares integers of the same order, since only those vectorize."""
    bits, largest = x.view(np.int32), np.int32(-(2**31))
    for i in range(len(bits)):
        largest = max(largest, flip_if_negative(bits[i]))
    return np.int32(flip_if_negative(largest)).view(np.float32)


@compile_kernel
def find_largest_size(x: np.ndarray) -> np.float32:
    """The largest absolute value of float32 [N]."""
    bits, largest = x.view(np.int32), np.int32(0)
    for i in range(len(bits)):
        largest = max(largest, np.int32(bits[i] & np.int32(0x7FFFFFFF)))
    return np.int32(largest).view(np.float32)


@compile_kernel
def flip_if_negative(bits: np.int32) -> np.int32:
    """A float's bits as an integer of the same order: all but the sign flipped if negative. Its own inverse."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@compile_kernel
def exponentiate(x: np.ndarray, largest: np.float32) -> None:
    """Replaces float32 x [N] by exp(x - largest); see `compute_exponential`."""
    for i in range(len(x)):
        x[i] = compute_exponential(x[i] - largest)


@compile_kernel
def compute_exponential(x: np.float32) -> np.float32:
    """Returns exp(x) of x up to 0, with a relative error below 4e-6; zero below 2^-126.

    Computes 2^whole · e^rest by a Taylor polynomial, which vectorizes; the library's function does not.
    """
    scaled = max(x * LOG2_E, f32(-127))
    whole = np.rint(scaled)
    rest = (scaled - whole) * LN_2
    power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)  # 2^whole by its bits
    series = f32(1 / 24) + rest * (f32(1 / 120) + rest * f32(1 / 720))
    return power * (f32(1) + rest * (f32(1) + rest * (f32(1 / 2) + rest * (f32(1 / 6) + rest * series))))
