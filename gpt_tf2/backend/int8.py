"""Rounding matrices to int8."""

import numpy as np


def quantize(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round a matrix [inputs, outputs] to int8, and return it with the scale of each output, float32 [outputs].

    A scale is the largest absolute value over 127 (Dettmers et al. 2022, section 2, row- and column-wise).
    """
    largest = np.abs(w).max(axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype("float32")
    return np.rint(w / scale).astype("int8"), scale
