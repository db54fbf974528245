"""`GPT2` as the Keras model that its users expect. Runs on either backend."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from gpt_tf2 import GPT2, GPT2Config, InputError, Tokenizer, load_model, save_model
from gpt_tf2.config import adapter_shapes
from gpt_tf2.model import random_tensors
from gpt_tf2.training.blockwise import BlockwiseModel
from gpt_tf2.training.lora import add_adapters
from helpers.workplace import OPENAI_TINY

SMALL = GPT2Config(n_vocab=50, n_ctx=16, n_embd=16, n_head=2, n_layer=2)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Each token is the one before plus 1: what a model learns in a few steps.
IDS = (np.arange(17) + np.arange(0, 40, 5)[:, None]).astype("int32") % 50  # [8, 17]
X, Y = IDS[:, :-1], IDS[:, 1:]


def small_model(**options: object) -> GPT2:
    return GPT2(SMALL, read=random_tensors(SMALL, seed=1, std=0.1), **options)


def compiled_model(**options: object) -> GPT2:
    model = small_model(**options)
    model.compile(keras.optimizers.Adam(1e-2), LOSS)
    return model


def logits(model: keras.Model) -> np.ndarray:
    return np.asarray(model(X))


@pytest.mark.parametrize("adapters", [False, True], ids=["plain", "with adapters"])
def test_a_keras_file_brings_back_the_model(adapters: bool, tmp_path: Path) -> None:
    model = compiled_model(dropout=0.1, dtype="mixed_bfloat16")
    if adapters:
        add_adapters(model, adapter_shapes(SMALL, rank=2))
    model.fit(X, Y, epochs=1, batch_size=4, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is GPT2 and loaded.config == SMALL and loaded.dropout == 0.1
    assert loaded.dtype_policy.name == "mixed_bfloat16" and list(loaded.tensors()) == list(model.tensors())
    assert np.array_equal(logits(loaded), logits(model))
    assert int(loaded.optimizer.iterations) == 2
    loaded.fit(X, Y, epochs=1, verbose=0)


def test_a_config_is_plain_json_and_builds_an_equal_network() -> None:
    model = small_model(dropout=0.2, dtype=keras.DTypePolicy("bfloat16"), name="mine")
    model.trainable = False
    import json

    config = json.loads(json.dumps(model.get_config()))
    again = GPT2.from_config(config)
    assert again.get_config() == model.get_config()
    assert (again.name, again.dropout, again.trainable, again.config) == ("mine", 0.2, False, SMALL)
    assert not again.trainable_variables
    assert {v.dtype for v in again.tensors().values() if len(v.shape) == 2} == {"bfloat16"}


def test_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    model, other = small_model(), GPT2(SMALL, seed=9)
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    assert np.array_equal(logits(other), logits(model))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert np.array_equal(logits(clone), logits(model))


def test_three_epochs_on_tf_data_lower_the_loss() -> None:
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(3)  # the last batch is smaller
    model = compiled_model(dropout=0.05)
    losses = model.fit(data, epochs=3, verbose=0, validation_data=data).history
    assert losses["loss"][2] < losses["loss"][0] - 1 and losses["val_loss"][2] < losses["val_loss"][0] - 1
    assert model.evaluate(data, verbose=0) == pytest.approx(losses["val_loss"][2], rel=1e-5)


@pytest.mark.parametrize("jit_compile", ["auto", True, False])
def test_plain_arrays_are_trained_on_evaluated_and_predicted(jit_compile: bool | str) -> None:
    model = small_model()
    model.compile("adam", LOSS, metrics=["accuracy"], jit_compile=jit_compile)
    model.fit(X, Y, batch_size=4, epochs=1, verbose=0)
    predicted = model.predict(X, verbose=0)
    assert predicted.shape == (8, 16, 50) and predicted.dtype == np.float32
    assert np.allclose(predicted, logits(model), atol=1e-5)
    scores = model.evaluate(X, Y, verbose=0, return_dict=True)
    probabilities = np.exp(predicted) / np.exp(predicted).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(probabilities, Y[..., None], axis=-1)).mean()
    assert scores["loss"] == pytest.approx(expected, rel=1e-5)
    assert scores["accuracy"] == pytest.approx((predicted.argmax(-1) == Y).mean())


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_dtype_policies_decide_what_is_computed_and_stored(policy: str) -> None:
    model = compiled_model(dtype=policy)
    history = model.fit(X, Y, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.5
    stored = {str(v.dtype) for v in model.tensors().values() if len(v.shape) == 2}
    assert stored == {"bfloat16" if policy == "bfloat16" else "float32"}
    assert model.compute_dtype == policy.removeprefix("mixed_")
    assert logits(model).dtype == np.float32
    assert not np.array_equal(logits(model), logits(small_model()))


def test_keras_own_policy_is_the_default() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert small_model().compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_the_network_is_a_part_of_a_functional_model() -> None:
    ids = keras.Input((None,), dtype="int32")
    model = keras.Model(ids, keras.ops.softmax(small_model()(ids)))
    assert np.allclose(np.asarray(model(X)).sum(-1), 1, atol=1e-5)
