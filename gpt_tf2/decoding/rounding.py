"""Rounding a matrix to int8, with a scale per output."""

import numpy as np

SMALLEST = 5e-7  # the least value that fills the range of int8


def quantize(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a matrix [outputs, inputs] to int8, and returns it with the scale of each output, float32 [outputs].

    To the last bit as TensorFlow's converter: it divides in float64, and rounds halves away from zero.
    """
    scale = np.maximum(np.abs(matrix).max(axis=1).astype("float64"), SMALLEST) / 127
    scaled = matrix / scale[:, None]
    return np.trunc(scaled + np.copysign(0.5, scaled)).astype("int8"), scale.astype("float32")
