"""The perplexity of a sample by a decoder, against its definition."""

import math

import numpy as np
import pytest

from gpt_tf2 import load_model
from gpt_tf2.decoding.keras_graph import GraphDecoder
from gpt_tf2.decoding.sample_perplexity import cut_windows, decode_windows, measure_perplexity
from helpers.workplace import OPENAI_TINY


def test_a_samples_perplexity_is_that_of_the_network_in_windows_of_its_context() -> None:
    model = load_model(OPENAI_TINY)
    ids = np.load(OPENAI_TINY / "expected.npz")["tokens"].ravel()[:150]  # two windows of 64, and 22 that are left out
    losses = []
    for window in (ids[:64], ids[64:128]):
        logits = np.asarray(model(window[None]))[0].astype("float64")
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses += [-log_probabilities[i, window[i + 1]] for i in range(63)]
    windows = cut_windows(ids, model.config.n_ctx)
    assert windows.shape == (2, 64)
    assert measure_perplexity(decode_windows(GraphDecoder(model), windows), windows) == pytest.approx(
        math.exp(np.mean(losses)), rel=1e-5
    )
