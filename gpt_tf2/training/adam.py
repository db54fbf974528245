"""Adam as published."""

from typing import Any

import keras
from keras import ops


class Adam(keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, algorithm 1), as torch has it: epsilon is added to the corrected second moment's root.

    Keras adds it to the uncorrected root, so that its epsilon is 30 times larger in the first step: enough to
    change the fourth digit of GPT-2's losses, as most gradients of the token embedding are tiny.
    """

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: object) -> None:
        step = ops.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        if hasattr(gradient, "indices"):  # TensorFlow's of an embedding, a row a token: summed before it is squared
            gradient = ops.add(gradient, ops.zeros_like(variable))
        self.assign_add(mean, (1 - self.beta_1) * (gradient - mean))
        self.assign_add(square, (1 - self.beta_2) * (ops.square(gradient) - square))
        root = ops.sqrt(square / (1 - self.beta_2**step)) + self.epsilon
        rate = ops.cast(learning_rate, variable.dtype) / (1 - self.beta_1**step)
        self.assign_sub(variable, rate * mean / root)
