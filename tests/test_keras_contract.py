"""`GPT2` as the Keras model that its users expect. Runs on either backend."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import gpt_tf2
from gpt_tf2 import GPT2, GPT2Config, InputError, Tokenizer, load_model, save_model
from gpt_tf2.config import adapter_shapes
from gpt_tf2.data.batches import Batch
from gpt_tf2.data.keras_batches import KerasBatches
from gpt_tf2.model import random_tensors
from gpt_tf2.training.blockwise import BlockwiseModel
from gpt_tf2.training.lora import add_adapters
from helpers.made_up import write_conversations
from helpers.workplace import OPENAI_TINY

SMALL = GPT2Config(n_vocab=50, n_ctx=16, n_embd=16, n_head=2, n_layer=1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# Each token is the one before plus 1: what a model learns in a few steps.
IDS = (np.arange(17) + np.arange(0, 40, 5)[:, None]).astype("int32") % 50  # [8, 17]
X, Y = IDS[:, :-1], IDS[:, 1:]
B = 100 * np.random.default_rng(0).standard_normal((2, 16)).astype("float32")  # of an adapter that changes everything


def small_model(**options: object) -> GPT2:
    return GPT2(SMALL, read=random_tensors(SMALL, seed=1, std=0.1), **options)


def compiled_model(**options: object) -> GPT2:
    model = small_model(**options)
    model.compile(keras.optimizers.Adam(1e-2), LOSS)
    return model


def logits(model: keras.Model) -> np.ndarray:
    return np.asarray(model(X))


def test_a_keras_file_brings_back_the_model_and_its_optimizer(tmp_path: Path) -> None:
    model = compiled_model(dropout=0.1, dtype="mixed_bfloat16")
    model.fit(X, Y, epochs=1, batch_size=4, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is GPT2 and loaded.config == SMALL and loaded.dropout == 0.1
    assert loaded.dtype_policy.name == "mixed_bfloat16" and list(loaded.tensors()) == list(model.tensors())
    assert np.array_equal(logits(loaded), logits(model))
    assert int(loaded.optimizer.iterations) == 2
    for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_keras_file_keeps_adapters(tmp_path: Path) -> None:
    model = small_model()
    add_adapters(model, adapter_shapes(SMALL, rank=2), alpha=3)
    model.tensors()["h0/mlp/c_proj/lora_b"].assign(B)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert np.array_equal(logits(loaded), logits(model)) and not np.array_equal(logits(loaded), logits(small_model()))


def test_a_config_is_plain_json_and_builds_an_equal_network() -> None:
    model = small_model(dropout=0.2, dtype=keras.DTypePolicy("bfloat16"), name="mine")
    model.trainable = False

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
    history = compiled_model(dropout=0.05).fit(data, epochs=3, validation_data=data, shuffle=False, verbose=0).history
    for name in ("loss", "val_loss"):
        first, second, third = history[name]
        assert first > second > third and first > third + 0.4


@pytest.mark.parametrize("jit_compile", ["auto", pytest.param(True, marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_mixed_precision_trains(policy: str) -> None:
    history = compiled_model(dtype=policy).fit(X, Y, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.4


@pytest.mark.parametrize(("policy", "stored"), [("mixed_bfloat16", "float32"), ("bfloat16", "bfloat16")])
def test_dtype_policies_decide_what_is_computed_and_stored(policy: str, stored: str) -> None:
    model = small_model(dtype=policy)
    assert {v.dtype for v in model.tensors().values() if len(v.shape) == 2} == {stored}
    assert {v.dtype for v in model.tensors().values() if len(v.shape) == 1} == {"float32"}
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


def test_a_preset_is_a_name_in_models_or_a_path(workplace: Path) -> None:
    expected = load_model("models/tiny")
    model = GPT2.from_preset("tiny", dropout=0.1, dtype="mixed_bfloat16")
    assert (model.dropout, model.compute_dtype, model.config) == (0.1, "bfloat16", expected.config)
    save_model(expected, "m.safetensors")
    loaded = GPT2.from_preset("m.safetensors")
    for name, values in expected.tensors().items():
        assert np.array_equal(values, model.tensors()[name]) and np.array_equal(values, loaded.tensors()[name])
    with pytest.raises(InputError, match="no such model"):
        GPT2.from_preset("absent")


def test_greedy_ids_are_those_of_openais_graph() -> None:
    expected = np.load(OPENAI_TINY / "expected.npz")["greedy"]  # [64], of which 7 are the prompt
    model = load_model(OPENAI_TINY)
    ids = model.generate(expected[None, :7], max_new_tokens=20, temperature=0)
    assert ids.dtype == np.int32 and np.array_equal(ids, expected[None, :27])
    longer, shorter = model.generate([expected[:9].tolist(), expected[:7].tolist()], 5, temperature=0)
    assert np.array_equal(longer, expected[:14]) and np.array_equal(shorter, expected[:12])


@pytest.fixture(scope="module")
def counting() -> GPT2:
    """A model that has learned to count."""
    model = compiled_model()
    model.fit(X, Y, epochs=60, verbose=0)
    return model


def test_sampled_ids_follow_the_seed() -> None:
    model = small_model()
    first = model.generate(X[:2, :3], 8, top_p=0.9, seed=1)
    assert np.array_equal(model.generate(X[:2, :3], 8, top_p=0.9, seed=1), first)
    assert not np.array_equal(model.generate(X[:2, :3], 8, top_p=0.9, seed=2), first)


def test_generated_ids_follow_the_current_weights(counting: GPT2) -> None:
    model = small_model()

    def continues() -> bool:
        return np.array_equal(model.generate(X[:, :3], 7, temperature=0), X[:, :10])

    assert not continues()
    model.set_weights(counting.get_weights())
    assert continues()
    add_adapters(model, adapter_shapes(SMALL, rank=2))
    assert continues()
    model.tensors()["h0/mlp/c_proj/lora_b"].assign(B)
    assert not continues()


def test_sequences_end_at_an_id_and_arrays_are_filled_up_with_it(counting: GPT2) -> None:
    prompt = np.array([[10, 11, 12], [11, 12, 13]])
    ids = counting.generate(prompt, 5, temperature=0, end=15)
    assert ids.tolist() == [[10, 11, 12, 13, 14], [11, 12, 13, 14, 15]]
    assert counting.generate(prompt, 99, temperature=0, end=3).shape == (2, SMALL.n_ctx)


@pytest.mark.parametrize(
    ("ids", "settings", "message"),
    [
        ([[1], []], {}, r"ids\[1\] has 0 tokens, n_ctx is 16: give 1 to 15"),
        (np.zeros((1, 16), int), {}, r"ids\[0\] has 16 tokens"),
        ([[1, 50]], {}, r"ids\[0\] holds an id outside the vocabulary: give ids from 0 to 49"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens=0: use 1 or more"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0: use 0 or more"),
        ([[1]], {"top_p": 0.0}, "top_p=0.0: use more than 0, at most 1"),
        ([[1]], {"top_k": None}, "top_k=None: use a whole number, 0 or more"),
        ([[1]], {"max_new_tokens": 2.5}, "max_new_tokens=2.5: use a whole number, 1 or more"),
        ([[1]], {"seed": -1}, "seed=-1: use 0 or more"),
        ([[1]], {"temperature": np.nan}, "temperature=nan: use 0 or more"),
        ([[1]], {"min_p": True}, "min_p=True: use a number, 0 or more, less than 1"),
        ([[1]], {"end": "x"}, "end='x': use a whole number, a token id"),
        (
            np.array([1, 2, 3]),
            {},
            r"ids are not sequences of token ids: give an int array \[B, T\], or a list of lists",
        ),
        ([1, 2, 3], {}, "ids are not sequences of token ids"),
        ([[1.5]], {}, "ids are not sequences of token ids"),
        ([[[1], [2, 3]]], {}, "ids are not sequences of token ids"),
        ("abc", {}, "ids are not sequences of token ids"),
    ],
)
def test_what_cannot_be_continued_is_an_error(ids: object, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_model().generate(ids, **settings)


@pytest.fixture
def conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the data set `coqa/` and the model `models/tiny`, whose context holds its examples."""
    monkeypatch.chdir(tmp_path)
    write_conversations(Path("coqa"), train=12)
    config = GPT2Config(n_vocab=512, n_ctx=256, n_embd=16, n_head=2, n_layer=1)
    tokenizer = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    save_model(GPT2(config, read=random_tensors(config, seed=1, std=0.1)), "models/tiny/model.safetensors", tokenizer)
    return tmp_path


def open_conversations(steps: int) -> tuple[KerasBatches, KerasBatches]:
    tokenizer = Tokenizer("models/tiny/vocab.json", "models/tiny/merges.txt")
    train, held_out = gpt_tf2.open_batches(
        "coqa", tokenizer, task="coqa", length=256, batch_size=2, steps=steps, val_fraction=0.5
    )
    assert held_out is not None
    return train, held_out


def test_keras_computes_our_loss_of_packed_examples(conversations: Path) -> None:
    model = GPT2.from_preset("tiny")
    model.compile("adam", LOSS)
    train, held_out = open_conversations(steps=2)
    blockwise = BlockwiseModel(model, ())
    batch = train.batch(1)
    expected = float(blockwise.loss(batch)) / batch.weights.sum()
    assert model.test_on_batch(*train[1]) == pytest.approx(expected, rel=1e-5)
    assert held_out.batch(0).segments.max() == 2 and held_out.batch(1).tokens.shape[1] < 256 and len(held_out) == 2
    batches = [held_out.batch(index) for index in range(2)]
    losses, counts = (np.array([float(x) for x in xs]) for xs in (map(blockwise.loss, batches), map(count, batches)))
    expected = losses.sum() / counts.sum()  # that of `finetune`
    assert expected != pytest.approx((losses / counts).mean(), rel=1e-4)
    assert model.evaluate(held_out, verbose=0) == pytest.approx(expected, rel=1e-5)


def count(batch: Batch) -> float:
    """The learned tokens of a batch."""
    return batch.weights.sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length=0: use 2 or more"),
        ({"length": 2.5}, "length=2.5: use a whole number, 2 or more"),
        ({"batch_size": 0}, "batch_size=0: use 1 or more"),
        ({"steps": 0}, "steps=0: use 1 or more"),
        ({"val_fraction": 2}, "val_fraction=2: use 0 or more, less than 1"),
        ({"seed": -1}, "seed=-1: use 0 or more"),
        ({"seed": None}, "seed=None: use a whole number, 0 or more"),
    ],
)
def test_batches_of_a_setting_out_of_its_range_are_an_error(settings: dict, message: str, workplace: Path) -> None:
    tokenizer = Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    with pytest.raises(InputError, match=message):
        gpt_tf2.open_batches("story.txt", tokenizer, **{"length": 32, **settings})


def test_fit_takes_packed_batches(conversations: Path) -> None:
    model = GPT2.from_preset("tiny")
    model.compile(keras.optimizers.Adam(1e-2), LOSS)
    train, held_out = open_conversations(steps=4)
    first, _, _ = train[0]
    history = model.fit(train, validation_data=held_out, epochs=3, verbose=0).history
    assert history["loss"][2] < history["loss"][0] - 0.4 and history["val_loss"][2] < history["val_loss"][0]
    assert not np.array_equal(train[0][0]["tokens"], first["tokens"])  # every epoch has its own


@pytest.mark.slow
def test_a_training_loop_of_ones_own(conversations: Path) -> None:
    """The loop of docs/api.md."""
    model = gpt_tf2.GPT2.from_preset("tiny")
    tokenizer = gpt_tf2.Tokenizer("models/tiny/vocab.json", "models/tiny/merges.txt")
    train, held_out = gpt_tf2.open_batches("coqa", tokenizer, task="coqa", length=256, batch_size=2, val_fraction=0.5)
    trainer = gpt_tf2.make_trainer(model, gpt_tf2.make_optimizer("adamw", weight_decay=0.01), clip_norm=1.0)
    losses = []
    for step in range(12):
        warm_up = min(1.0, (step + 1) / 4)
        loss = trainer.step(train.batch(step), rate=1e-2 * warm_up)
        if step % 6 == 5:
            batches = [held_out.batch(i) for i in range(len(held_out))]
            validation = np.average([trainer.loss(b) for b in batches], weights=[b.weights.sum() for b in batches])
            losses.append((float(loss), float(validation)))
    assert losses[1][0] < losses[0][0] < np.log(512) and losses[1][1] < losses[0][1]
    gpt_tf2.save_model(trainer.model, "own.h5", tokenizer)
    assert np.array_equal(GPT2.from_preset("own.h5")(np.array([[1, 2]])), trainer.model(np.array([[1, 2]])))


@keras.saving.register_keras_serializable(package="mine")
class Classifier(gpt_tf2.GPT2):
    """GPT-2 with a second head, which sorts texts into classes. From docs/api.md."""

    def __init__(self, config, n_classes, **options):
        super().__init__(config, **options)
        self.n_classes = n_classes
        self.head = keras.layers.Dense(n_classes)
        self.head.build((None, config.n_embd))  # here, so that a .keras file finds its weights

    def call(self, tokens, training=False):
        """Token ids [B, T], filled up with the last id of the vocabulary → scores [B, n_classes]."""
        states = self.hidden_states(tokens, training)  # [B, T, C]
        lengths = keras.ops.sum(keras.ops.cast(tokens != self.config.n_vocab - 1, "int32"), axis=1)
        last = keras.ops.take_along_axis(states, lengths[:, None, None] - 1, axis=1)[:, 0]  # [B, C]
        return self.head(last)

    def get_config(self):
        return {**super().get_config(), "n_classes": self.n_classes}


@pytest.mark.slow
def test_a_subclass_with_a_second_head_is_trained_saved_and_loaded(workplace: Path) -> None:
    texts = np.full((16, 6), 511, "int32")  # end of text
    labels = np.arange(16) % 2
    for number, text in enumerate(texts):
        text[: 3 + number % 3] = 100 + number // 2
        text[2 + number % 3] = 200 + labels[number]  # the last token decides
    model = Classifier.from_preset("tiny", n_classes=2, dropout=0.05)
    model.compile(keras.optimizers.Adam(1e-3), LOSS, metrics=["accuracy"])
    before = np.array(model.tensors()["wte"])
    history = model.fit(texts, labels, batch_size=8, epochs=10, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0] and history["accuracy"][-1] > 0.9
    assert not np.array_equal(model.tensors()["wte"], before)
    model.save("classifier.keras")
    loaded = keras.saving.load_model("classifier.keras")
    assert type(loaded) is Classifier
    assert np.array_equal(loaded.predict(texts, verbose=0), model.predict(texts, verbose=0))
