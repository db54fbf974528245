"""Gradients are the same however they are computed: block by block, recomputed, in chunks, in parts, frozen, adapters.

Runs on either backend.
"""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from keras import ops

from gpt_tf2 import GPT2, GPT2Config
from gpt_tf2.config import MATRICES, adapter_shapes
from gpt_tf2.data.batches import Batch, parts, whole_rows
from gpt_tf2.model import PLAIN, Tensor, attend, attention_bias, segment_mask
from gpt_tf2.training import custom_gradients
from gpt_tf2.training.blockwise import ATTENTION_PARTS, BlockwiseModel
from gpt_tf2.training.blockwise_trainer import BlockwiseTrainer
from gpt_tf2.training.lora import add_adapters
from gpt_tf2.training.optimizers import AdamW
from gpt_tf2.training.pullbacks import vjp
from helpers.gradients import compute_gradients, loss_and_gradients

if keras.backend.backend() == "jax":  # which trains with the compiled step: test_compiled_trainer.py compares them
    pytestmark = pytest.mark.slow

CONFIG = GPT2Config(n_vocab=300, n_ctx=32, n_embd=24, n_head=3, n_layer=3)


def make_batch(sequences: int = 4) -> Batch:
    """Sequences in which every third token is not learned."""
    batch = whole_rows(np.random.default_rng(0).integers(0, CONFIG.n_vocab, (sequences, 20)))
    return dataclasses.replace(batch, weights=(np.arange(len(batch.weights)) % 3 > 0).astype("float32"))


def make_model(config: GPT2Config = CONFIG, **options: object) -> GPT2:
    """A model in which no bias is 0 and no gain 1."""
    model, generator = GPT2(config, **options), np.random.default_rng(1)
    for variable in model.tensors().values():
        noise = generator.standard_normal(variable.shape).astype("float32")
        variable.assign(np.asarray(variable) + 0.02 * noise)
    return model


@functools.cache
def reference() -> tuple[float, dict[str, np.ndarray]]:
    """The loss and the gradients of `make_model` on `make_batch`, the plain way."""
    return loss_and_gradients(make_model(), make_batch())


@functools.cache
def plain_losses() -> list[float]:
    """The losses of five plain steps."""
    trainer = BlockwiseTrainer(make_model(), AdamW())
    return [trainer.step(make_batch(), 1e-3) for _ in range(5)]


def are_close(gradients: dict, expected: dict) -> bool:
    assert gradients.keys() == expected.keys()
    return all(np.abs(gradients[name] - g).max() <= 1e-5 * np.abs(g).max() for name, g in expected.items())


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("chunk", [300 * 1000, 300 * 13])
def test_checkpointing_and_chunks_do_not_change_gradients(remat: bool, chunk: int) -> None:
    model, batch = make_model(), make_batch()
    expected_loss, expected = reference()
    blockwise = BlockwiseModel(model, model.tensors(), remat)
    blockwise.head.chunk = chunk
    loss, gradients = compute_gradients(blockwise, batch)
    assert loss / batch.weights.sum() == pytest.approx(expected_loss, rel=1e-5)
    assert float(blockwise.loss(batch)) == pytest.approx(loss, rel=1e-5)
    assert are_close(gradients, expected)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX is XLA")
def test_xla_does_not_change_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make_model(), make_batch()
    expected_loss, expected = reference()
    for module in ("gpt_tf2.backend.compiling", "gpt_tf2.training.loss"):
        monkeypatch.setattr(f"{module}.uses_xla", lambda: True)
    for remat in (False, True):
        loss, gradients = loss_and_gradients(model, batch, remat)
        assert loss == pytest.approx(expected_loss, rel=1e-5) and are_close(gradients, expected)


def test_recomputed_blocks_drop_the_same_activations_again() -> None:
    model, batch = make_model(dropout=0.2), make_batch()
    (kept_loss, kept), (recomputed_loss, recomputed) = (
        compute_gradients(BlockwiseModel(model, model.tensors(), remat), batch, seed=3, step=7)
        for remat in (False, True)
    )
    assert kept_loss == pytest.approx(recomputed_loss, rel=1e-6) and are_close(recomputed, kept)
    assert compute_gradients(BlockwiseModel(model, model.tensors()), batch, seed=3, step=8)[0] != kept_loss


def test_gradients_do_not_depend_on_earlier_batch_shapes_bit_for_bit() -> None:
    model, batch = make_model(), make_batch()
    fresh, used = (BlockwiseModel(model, model.tensors()) for _ in range(2))
    for shape in ((1, 7), (2, 20), (4, 31)):
        compute_gradients(used, whole_rows(np.zeros(shape, "int64")))
    (expected_loss, expected), (loss, gradients) = (compute_gradients(model, batch) for model in (fresh, used))
    assert expected_loss == loss and all(np.array_equal(gradients[name], g) for name, g in expected.items())


def collect_gradients(trainer: BlockwiseTrainer) -> dict[str, np.ndarray]:
    """The gradients that a step updates with."""
    collected: dict[str, np.ndarray] = {}

    def apply(prefix: str, gradients: dict, rate: float) -> None:
        collected.update({prefix + name: np.asarray(g) for name, g in gradients.items()})

    trainer._apply = apply
    trainer.step(make_batch(), 1e-3)
    return collected


def test_updating_block_by_block_gives_the_weights_of_updating_after_all_gradients() -> None:
    results = []
    for collect in (False, True):
        trainer = BlockwiseTrainer(make_model(), AdamW(0.1), collect=collect)
        losses = [trainer.step(make_batch(), 1e-3) for _ in range(5)]
        assert losses[-1] < losses[0]
        results.append([np.asarray(losses), *(np.asarray(variable) for variable in trainer.trained.values())])
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"accumulate": 2}, marks=pytest.mark.slow),
        pytest.param({"accumulate": 3}, marks=pytest.mark.slow),
        {"clip_norm": 1e9},
    ],
)
def test_accumulation_gives_the_gradients_of_the_whole_batch(options: dict) -> None:
    gradients = collect_gradients(BlockwiseTrainer(make_model(), AdamW(), **options))
    assert are_close(gradients, reference()[1])
    trainer = BlockwiseTrainer(make_model(), AdamW(), **options)
    assert [trainer.step(make_batch(), 1e-3) for _ in range(5)] == pytest.approx(plain_losses(), rel=1e-5)


def test_clipping_scales_all_gradients_to_the_global_norm() -> None:
    _, expected = reference()
    norm = np.sqrt(sum(np.square(g).sum() for g in expected.values()))
    assert norm > 0.01
    gradients = collect_gradients(BlockwiseTrainer(make_model(), AdamW(), clip_norm=0.01))
    assert are_close(gradients, {name: g * 0.01 / norm for name, g in expected.items()})


def test_the_parts_of_a_batch_hold_its_sequences_and_targets() -> None:
    batch = make_batch(5)
    split = parts(batch, 2)
    assert [len(part.tokens) for part in split] == [3, 2]
    picked = np.concatenate([part.tokens.ravel()[part.picks] for part in split])
    assert np.array_equal(picked, batch.tokens.ravel()[batch.picks])
    assert np.array_equal(np.concatenate([part.weights for part in split]), batch.weights)


@pytest.mark.parametrize(
    "trained", [["wte"], ["wpe"], ["ln_f/g"], ["h2/mlp/c_fc/w", "h1/ln_1/b"], ["h0/attn/c_attn/w", "ln_f/b"]]
)
def test_only_trained_tensors_have_gradients(trained: list[str]) -> None:
    model, batch = make_model(), make_batch()
    _, everything = reference()
    _, gradients = compute_gradients(BlockwiseModel(model, trained), batch)
    assert are_close(gradients, {name: everything[name] for name in trained})


def test_an_output_matrix_of_its_own_has_its_part_of_the_gradient() -> None:
    """Equal to wte, both parts sum to the gradient of the tied wte; unlike it, each is the slope of the loss."""
    batch, model = make_batch(), make_model(dataclasses.replace(CONFIG, tied=False))
    wte, head = (model.tensors()[name] for name in ("wte", "lm_head"))
    head.assign(np.asarray(wte))
    loss, expected = reference()
    untied_loss, gradients = loss_and_gradients(model, batch)
    assert untied_loss == pytest.approx(loss, rel=1e-6)
    gradients["wte"] = gradients["wte"] + gradients.pop("lm_head")
    assert are_close(gradients, expected)

    head.assign(np.asarray(wte)[::-1])
    blockwise = BlockwiseModel(model, ["wte", "lm_head"])
    _, gradients = compute_gradients(blockwise, batch)
    for name, variable in (("wte", wte), ("lm_head", head)):
        assert are_close(compute_gradients(BlockwiseModel(model, [name]), batch)[1], {name: gradients[name]})
        values, losses = np.asarray(variable).copy(), []
        step = 0.01 * gradients[name] / np.linalg.norm(gradients[name])
        for sign in (-1, 1):
            variable.assign(values + sign * step)
            losses.append(float(blockwise.loss(batch)) / batch.weights.sum())
        variable.assign(values)
        slope = (losses[1] - losses[0]) / 0.02
        assert slope == pytest.approx(np.linalg.norm(gradients[name]), rel=0.02)


def test_new_adapters_change_nothing_and_only_they_are_trained() -> None:
    model, batch = make_model(), make_batch()
    before = {name: np.asarray(variable) for name, variable in model.tensors().items()}
    loss = float(BlockwiseModel(model, ()).loss(batch))
    shapes = adapter_shapes(CONFIG, 4)
    add_adapters(model, shapes)
    assert len(shapes) == 2 * len(MATRICES) * CONFIG.n_layer
    trainer = BlockwiseTrainer(model, AdamW(), shapes, remat=True)
    losses = [trainer.step(batch, 1e-2) for _ in range(8)]
    assert losses[0] * batch.weights.sum() == pytest.approx(loss, rel=1e-5) and losses[-1] < losses[0] - 0.2
    assert all(np.array_equal(np.asarray(model.tensors()[name]), values) for name, values in before.items())


def test_an_adapters_gradients_follow_from_its_matrixs_gradient() -> None:
    model, batch = make_model(), make_batch()
    _, of_matrices = reference()
    add_adapters(model, adapter_shapes(CONFIG, 4))
    _, gradients = compute_gradients(BlockwiseModel(model, adapter_shapes(CONFIG, 4)), batch)
    for name, gradient in gradients.items():
        if name.endswith("lora_b"):
            matrix = name.removesuffix("lora_b")
            a = np.asarray(model.tensors()[f"{matrix}lora_a"])
            assert np.abs(gradient - a.T @ of_matrices[f"{matrix}w"]).max() <= 1e-4 * np.abs(gradient).max()
        else:  # lora_a's gradient is a product with lora_b, which is 0
            assert not gradient.any()


@pytest.mark.parametrize("time", [9, 513])
def test_attention_with_custom_gradients_is_the_models(time: int) -> None:
    generator = np.random.default_rng(0)
    inputs = [ops.convert_to_tensor(generator.standard_normal((2, 2, time, 4)).astype("float32")) for _ in range(3)]
    dy = ops.convert_to_tensor(generator.standard_normal((2, 2, time, 4)).astype("float32"))
    bias = attention_bias(segment_mask(np.sort(generator.integers(0, 3, (2, time)))), "float32")
    results = []
    for attention in (attend, *(functools.partial(custom_gradients.attend, parts=count) for count in ATTENTION_PARTS)):
        y, pull_back = vjp(lambda inputs, attention=attention: attention(*inputs, bias), inputs)
        results.append(dict(enumerate(np.asarray(array) for array in (y, *pull_back(dy)))))
    assert all(are_close(result, results[0]) for result in results[1:])


def test_what_a_block_computes_between_its_products_is_the_models() -> None:
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> Tensor:
        return ops.convert_to_tensor(generator.standard_normal(shape).astype("float32"))

    x, wide, narrow, gain = draw(2, 5, 12), draw(2, 5, 36), draw(2, 5, 12), draw(12)
    weights = {"ln/g": gain, "ln/b": draw(12)}
    calls = {
        "norm": (lambda norm, given: norm(given[0], given[1], "ln"), (x, weights), draw(2, 5, 12)),
        "split": (lambda split, given: ops.stack(split(*given, 3)), (wide, draw(36)), draw(3, 2, 3, 5, 4)),
        "activate": (lambda activate, given: activate(*given), (narrow, draw(12)), draw(2, 5, 12)),
        "add": (lambda add, given: add(*given), (x, narrow, draw(12)), draw(2, 5, 12)),
    }
    for name, (call, inputs, dy) in calls.items():
        results = []
        for functions in (PLAIN, custom_gradients.FUNCTIONS):
            function = getattr(functions, name)
            y, pull_back = vjp(lambda given, call=call, function=function: call(function, given), inputs)
            results.append({i: np.asarray(a) for i, a in enumerate(keras.tree.flatten((y, pull_back(dy))))})
        assert are_close(results[1], results[0]), name
