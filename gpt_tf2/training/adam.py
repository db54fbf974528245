"""Adam as published."""

from typing import Any

import keras
from keras import ops


class Adam(keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, algorithm 1), as torch has it: epsilon is added to the corrected second moment's root.

    Keras adds it to the uncorrected root, so that its epsilon is 30 times larger in the first step: enough to
    change the fourth digit of GPT-2's losses, as most gradients of the token embedding are tiny.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        step = ops.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        power_1, power_2 = (ops.cast(beta, variable.dtype) ** step for beta in (self.beta_1, self.beta_2))
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # One pass over memory. The op's epsilon stands beside the uncorrected root, hence the factor. The sparse
            # gradient of an embedding, a row a token, is summed where rows are of the same index.
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=mean.value.handle,
                v=square.value.handle,
                beta1_power=power_1,
                beta2_power=power_2,
                lr=ops.cast(learning_rate, variable.dtype),
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon * ops.sqrt(1 - power_2),
                grad=tf.convert_to_tensor(gradient),
            )
            return
        self.assign_add(mean, (1 - self.beta_1) * (gradient - mean))
        self.assign_add(square, (1 - self.beta_2) * (ops.square(gradient) - square))
        root = ops.sqrt(square / (1 - power_2)) + self.epsilon
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) / (1 - power_1) * mean / root)
