"""The next-token loss."""

import keras
import numpy as np


def next_token_loss() -> keras.losses.Loss:
    """Cross-entropy of logits [B, T, V] against ids [B, T], in nats, averaged by the weights [B, T]."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def shifted(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids [B, T] → each position's next id [B, T], and its weight [B, T]: 1, and 0 at the last, which has no next."""
    weights = np.ones(tokens.shape, "float32")
    weights[:, -1] = 0
    return np.roll(tokens, -1, axis=1), weights
