"""Keras's own file, as Keras opens it. Runs on either backend."""

from pathlib import Path

import keras
import numpy as np

from gpt_tf2 import GPT2
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.exporting import keras_file
from helpers.exporting import run
from helpers.markers import slow_on_jax
from helpers.workplace import OPENAI_TINY, list_names


@slow_on_jax
def test_keras_opens_one_file_and_computes_what_openais_graph_does(tmp_path: Path) -> None:
    model = open_model(OPENAI_TINY)
    keras_file.write(model, tmp_path / "tiny.keras", "float32")
    assert list_names(tmp_path) == ["tiny.keras"]
    network = keras.models.load_model(tmp_path / "tiny.keras")
    assert type(network) is GPT2 and network.config == model.config
    expected = np.load(OPENAI_TINY / "expected.npz")
    np.testing.assert_allclose(network(expected["tokens"]), expected["logits"], atol=1e-4)
    logits = run(keras_file.read_logits(tmp_path / "tiny.keras"), expected["tokens"][0], steps=5)
    np.testing.assert_allclose(logits, expected["logits"][0], atol=1e-4)
