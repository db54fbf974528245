"""What the functions that Numba compiles have in common."""

import math
import os
from typing import Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # or Numba's waiting threads take the processors from LiteRT's
from numba import njit

f32 = np.float32
LOG2_E, LN_2 = f32(math.log2(math.e)), f32(math.log(2))
# Sums in any order, so that they run on vectors; infinities stay what they are. The code is kept for the next start.
FAST: dict[str, Any] = {
    "fastmath": {"nnan", "nsz", "arcp", "contract", "afn", "reassoc"},
    "error_model": "numpy",
    "cache": True,
}


@njit(**FAST)
def largest_of(x: np.ndarray) -> np.float32:
    """The largest of float32 [N], not NaN. Compared as integers of the same order, as only those run on vectors."""
    bits, top = x.view(np.int32), np.int32(-(2**31))
    for i in range(len(bits)):
        top = max(top, ordered(bits[i]))
    return np.int32(ordered(top)).view(np.float32)


@njit(**FAST)
def ordered(bits: np.int32) -> np.int32:
    """A float's bits as an integer that is larger when the float is; and back."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(**FAST)
def exponentials(x: np.ndarray, largest: np.float32) -> None:
    """exp(x - largest) in place, of float32 [N]; zero below 2^-126. Relative error below 4e-6.

    It is 2^whole · e^rest with Taylor's polynomial, which runs on vectors: the library's function does not.
    """
    for i in range(len(x)):
        scaled = max((x[i] - largest) * LOG2_E, f32(-127))
        whole = np.floor(scaled)
        r = (scaled - whole) * LN_2
        power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)  # 2^whole by its bits
        series = f32(1 / 24) + r * (f32(1 / 120) + r * (f32(1 / 720) + r * f32(1 / 5040)))
        x[i] = power * (f32(1) + r * (f32(1) + r * (f32(1 / 2) + r * (f32(1 / 6) + r * series))))
