"""Reverse-mode differentiation a piece at a time, on either backend."""

from collections.abc import Callable
from typing import Any

import keras

from gpt_tf2.backend.compiling import kernel
from gpt_tf2.model import Tensor

Pull = Callable[[Tensor], Any]  # the gradient by a piece's output → those by its inputs

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    import jax


class Piece:
    """A compiled function of nested arrays with its pullback.

    Args:
        function: (inputs, *constants) → one array. Gradients are by the inputs.

    `run` is the function, and `pulled(inputs, dy, *constants)` goes the way again for the gradients.
    """

    def __init__(self, function: Callable[..., Tensor]):
        self.run = kernel(function)
        self.pulled = kernel(lambda inputs, dy, *constants: vjp(lambda x: function(x, *constants), inputs)[1](dy))
        if keras.backend.backend() == "jax":
            self._saving = jax.jit(lambda inputs, *constants: jax.vjp(lambda x: function(x, *constants), inputs))
            self._pull = jax.jit(lambda pull, dy: pull(dy)[0])

    def saving(self, inputs: Any, *constants: Any) -> tuple[Tensor, Pull]:
        """The output, and a pullback that has kept what it needs of the way there; it can be used once."""
        if keras.backend.backend() == "tensorflow":
            return vjp(lambda x: self.run(x, *constants), inputs)
        y, pull = self._saving(inputs, *constants)
        return y, lambda dy: self._pull(pull, dy)

    def recomputing(self, inputs: Any, *constants: Any) -> tuple[Tensor, Pull]:
        """The output, and a pullback that goes the way again: it keeps the inputs alone (Chen et al. 2016)."""
        return self.run(inputs, *constants), lambda dy: self.pulled(inputs, dy, *constants)


def vjp(function: Callable[[Any], Tensor], inputs: Any) -> tuple[Tensor, Pull]:
    """The output of a function of nested arrays, and its pullback, as `jax.vjp`."""
    if keras.backend.backend() == "jax":
        y, pull = jax.vjp(function, inputs)
        return y, lambda dy: pull(dy)[0]
    with tf.GradientTape() as tape:
        tape.watch(tf.nest.flatten(inputs))
        y = function(inputs)
    return y, lambda dy: tape.gradient(y, inputs, dy, unconnected_gradients="zero")
