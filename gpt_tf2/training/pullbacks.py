"""Reverse-mode differentiation, one compiled function at a time, on TensorFlow and JAX alike.

A pullback takes the gradient of a function's output to the gradients of its inputs.
"""

from collections.abc import Callable
from typing import Any

import keras

from gpt_tf2.backend.compiling import compile_kernel
from gpt_tf2.model import Tensor

Pullback = Callable[[Tensor], Any]  # the gradient of the output → the gradients of the inputs

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    import jax


class DifferentiableFunction:
    """A compiled function of nested arrays, with its pullback.

    Args:
        function: `function(inputs, *constants)`, returns one array; it is differentiated by the inputs.

    Attributes:
        run: `run(inputs, *constants)`, the compiled function.
        pull_back: `pull_back(inputs, dy, *constants)`, the inputs' gradients of the output's gradient dy. It recomputes
            the function.
    """

    def __init__(self, function: Callable[..., Tensor]):
        def pull_back(inputs: Any, dy: Tensor, *constants: Any) -> Any:
            return vjp(lambda x: function(x, *constants), inputs)[1](dy)

        self.run = compile_kernel(function)
        self.pull_back = compile_kernel(pull_back)
        if keras.backend.backend() == "jax":
            self._jax_vjp = jax.jit(lambda inputs, *constants: jax.vjp(lambda x: function(x, *constants), inputs))
            self._jax_pull = jax.jit(lambda pullback, dy: pullback(dy)[0])

    def run_and_keep(self, inputs: Any, *constants: Any) -> tuple[Tensor, Pullback]:
        """Return the output, and a pullback that keeps the activations it needs. Call it at most once."""
        if keras.backend.backend() == "tensorflow":
            return vjp(lambda x: self.run(x, *constants), inputs)
        y, pullback = self._jax_vjp(inputs, *constants)
        return y, lambda dy: self._jax_pull(pullback, dy)

    def run_and_recompute(self, inputs: Any, *constants: Any) -> tuple[Tensor, Pullback]:
        """Return the output, and a pullback that keeps only the inputs and recomputes the rest (Chen et al. 2016)."""
        return self.run(inputs, *constants), lambda dy: self.pull_back(inputs, dy, *constants)


def vjp(function: Callable[[Any], Tensor], inputs: Any) -> tuple[Tensor, Pullback]:
    """Return the output of a function of nested arrays, and its pullback, as `jax.vjp` does."""
    if keras.backend.backend() == "jax":
        y, pullback = jax.vjp(function, inputs)
        return y, lambda dy: pullback(dy)[0]
    with tf.GradientTape() as tape:
        tape.watch(tf.nest.flatten(inputs))
        y = function(inputs)
    return y, lambda dy: tape.gradient(y, inputs, dy, unconnected_gradients="zero")
