"""The next-token loss, and the network as far as the loss needs it."""

import keras
from keras import ops

from gpt_tf2.model import GPT2, Tensor, causal_mask


class NextToken(keras.Model):
    """A batch's inputs → the logits of the places that are learned: no others are projected onto the vocabulary."""

    def __init__(self, model: GPT2):
        super().__init__(name="next_token")
        self.gpt2 = model
        self.built = True

    def call(self, batch: dict[str, Tensor], training: bool = False) -> Tensor:
        """`Batch.inputs()` → float32 logits [K, V]."""
        tokens, segments = batch["tokens"], batch["segments"]
        own = segments[:, None, :, None] == segments[:, None, None, :]
        mask = ops.logical_and(causal_mask(ops.shape(tokens)[1]), own)
        x, _ = self.gpt2.hidden(tokens, batch["positions"], mask, training=training)
        return self.gpt2.logits(ops.take(ops.reshape(x, (-1, x.shape[-1])), batch["picks"], axis=0))


def next_token_loss() -> keras.losses.Loss:
    """Cross-entropy of logits [K, V] against ids [K], in nats, averaged by the weights [K]."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
