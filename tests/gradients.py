"""A loss and its gradients on whichever backend runs."""

import keras
import numpy as np

from gpt_tf2.model import GPT2
from gpt_tf2.training.batches import Batch
from gpt_tf2.training.loss import NextToken, next_token_loss


def loss_and_gradients(model: GPT2, batch: Batch) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a batch, and its gradient by every tensor."""
    network, variables = NextToken(model), model.tensors()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = next_token_loss()(batch.targets, network(batch.inputs()), batch.weights)
        found = tape.gradient(loss, [variable.value for variable in variables.values()])
        return float(loss), {
            name: np.asarray(tf.convert_to_tensor(g)) for name, g in zip(variables, found, strict=True)
        }
    import jax

    def loss_of(values: dict) -> object:
        with keras.StatelessScope(state_mapping=[(variables[name], values[name]) for name in variables]):
            return next_token_loss()(batch.targets, network(batch.inputs()), batch.weights)

    loss, found = jax.value_and_grad(loss_of)({name: variable.value for name, variable in variables.items()})
    return float(loss), {name: np.asarray(g) for name, g in found.items()}
