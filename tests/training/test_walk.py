"""Every way to a gradient is the plain one: remat, chunks, fused updates, accumulation, frozen parts, adapters."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from gpt_tf2 import GPT2, GPT2Config
from gpt_tf2.config import MATRICES, adapter_shapes
from gpt_tf2.data.batches import Batch, parts, whole_rows
from gpt_tf2.model import attend, attention_bias
from gpt_tf2.training import custom_gradients as fast
from gpt_tf2.training.lora import add_adapters
from gpt_tf2.training.optimizers import AdamW
from gpt_tf2.training.pullbacks import vjp
from gpt_tf2.training.trainer import Trainer
from gpt_tf2.training.walk import Walk, visible
from helpers.gradients import loss_and_gradients

CONFIG = GPT2Config(n_vocab=300, n_ctx=32, n_embd=24, n_head=3, n_layer=3)


def batch(rows: int = 4) -> Batch:
    """Whole rows, of which some places are not learned."""
    made = whole_rows(np.random.default_rng(0).integers(0, CONFIG.n_vocab, (rows, 20)))
    return dataclasses.replace(made, weights=(np.arange(len(made.weights)) % 3 > 0).astype("float32"))


def perturbed(**options: object) -> GPT2:
    """A model with no bias of 0 and no gain of 1."""
    model, draw = GPT2(CONFIG, **options), np.random.default_rng(1)
    for variable in model.tensors().values():
        variable.assign(np.asarray(variable) + 0.02 * draw.standard_normal(variable.shape).astype("float32"))
    return model


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    assert found.keys() == expected.keys()
    return all(np.abs(found[name] - g).max() <= 1e-5 * np.abs(g).max() for name, g in expected.items())


def gradients_of(walk: Walk, data: Batch, **options: int) -> tuple[float, dict[str, np.ndarray]]:
    loss, back = walk.gradients(data, 1 / data.weights.sum(), **options)
    return float(loss), {prefix + name: np.asarray(g) for prefix, part in back for name, g in part.items()}


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("chunk", [300 * 1000, 300 * 13])
def test_remat_and_chunks_change_nothing(remat: bool, chunk: int) -> None:
    model, data = perturbed(), batch()
    loss, expected = loss_and_gradients(model, data)
    walk = Walk(model, model.tensors(), remat)
    walk.head.chunk = chunk
    found_loss, found = gradients_of(walk, data)
    assert found_loss / data.weights.sum() == pytest.approx(loss, rel=1e-5)
    assert float(walk.loss(data)) == pytest.approx(found_loss, rel=1e-5)
    assert close(found, expected)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX is XLA")
def test_xla_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = perturbed(), batch()
    loss, expected = loss_and_gradients(model, data)
    for module in ("gpt_tf2.backend.compiling", "gpt_tf2.training.loss"):
        monkeypatch.setattr(f"{module}.use_xla", lambda: True)
    for remat in (False, True):
        found_loss, found = loss_and_gradients(model, data, remat)
        assert found_loss == pytest.approx(loss, rel=1e-5) and close(found, expected)


def test_remat_draws_the_same_dropout_again() -> None:
    model, data = perturbed(dropout=0.2), batch()
    (one, kept), (other, recomputed) = (
        gradients_of(Walk(model, model.tensors(), remat), data, seed=3, step=7) for remat in (False, True)
    )
    assert one == pytest.approx(other, rel=1e-6) and close(recomputed, kept)
    assert gradients_of(Walk(model, model.tensors()), data, seed=3, step=8)[0] != one


def test_the_last_bits_do_not_depend_on_what_was_seen_before() -> None:
    model, data = perturbed(), batch()
    walks = [Walk(model, model.tensors()) for _ in range(2)]
    for shape in ((1, 7), (2, 20), (4, 31)):
        gradients_of(walks[1], whole_rows(np.zeros(shape, "int64")))
    (loss, expected), (other, found) = (gradients_of(walk, data) for walk in walks)
    assert loss == other and all(np.array_equal(found[name], g) for name, g in expected.items())


def handed_over(trainer: Trainer) -> dict[str, np.ndarray]:
    """The gradients that a step would update with."""
    seen: dict[str, np.ndarray] = {}
    trainer._apply = lambda prefix, part, rate: seen.update({prefix + name: np.asarray(g) for name, g in part.items()})
    trainer.step(batch(), 1e-3)
    return seen


def test_fused_updates_are_those_after_all_gradients() -> None:
    trained = []
    for gather in (False, True):
        trainer = Trainer(perturbed(), AdamW(0.1), gather=gather)
        losses = [trainer.step(batch(), 1e-3) for _ in range(5)]
        assert losses[-1] < losses[0]
        trained.append([np.asarray(losses), *(np.asarray(variable) for variable in trainer.trained.values())])
    assert all(np.array_equal(one, other) for one, other in zip(*trained, strict=True))


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"accumulate": 3}, {"clip_norm": 1e9}])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(options: dict) -> None:
    assert close(handed_over(Trainer(perturbed(), AdamW(), **options)), loss_and_gradients(perturbed(), batch())[1])
    plain, other = (Trainer(perturbed(), AdamW(), **chosen) for chosen in ({}, options))
    losses = [[trainer.step(batch(), 1e-3) for _ in range(5)] for trainer in (plain, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_bound_of_the_norm_scales_all_gradients_alike() -> None:
    _, expected = loss_and_gradients(perturbed(), batch())
    norm = np.sqrt(sum(np.square(g).sum() for g in expected.values()))
    assert norm > 0.01
    found = handed_over(Trainer(perturbed(), AdamW(), clip_norm=0.01))
    assert close(found, {name: g * 0.01 / norm for name, g in expected.items()})


def test_rows_in_parts_are_the_batch() -> None:
    data = batch(5)
    found = parts(data, 2)
    assert [len(part.tokens) for part in found] == [3, 2]
    assert np.array_equal(
        np.concatenate([part.tokens.ravel()[part.picks] for part in found]), data.tokens.ravel()[data.picks]
    )
    assert np.array_equal(np.concatenate([part.weights for part in found]), data.weights)


@pytest.mark.parametrize(
    "trained", [["wte"], ["wpe"], ["ln_f/g"], ["h2/mlp/c_fc/w", "h1/ln_1/b"], ["h0/attn/c_attn/w", "ln_f/b"]]
)
def test_only_what_is_trained_has_gradients(trained: list[str]) -> None:
    model, data = perturbed(), batch()
    _, everything = loss_and_gradients(model, data)
    _, found = gradients_of(Walk(model, trained), data)
    assert close(found, {name: everything[name] for name in trained})


def test_adapters_begin_at_nothing_and_learn_alone() -> None:
    model, data = perturbed(), batch()
    before, loss = {name: np.asarray(v) for name, v in model.tensors().items()}, float(Walk(model, ()).loss(data))
    shapes = adapter_shapes(CONFIG, 4)
    add_adapters(model, shapes)
    assert len(shapes) == 2 * len(MATRICES) * CONFIG.n_layer
    trainer = Trainer(model, AdamW(), shapes, remat=True)
    losses = [trainer.step(data, 1e-2) for _ in range(8)]
    assert losses[0] * data.weights.sum() == pytest.approx(loss, rel=1e-5) and losses[-1] < losses[0] - 0.2
    assert all(np.array_equal(np.asarray(model.tensors()[name]), values) for name, values in before.items())


def test_adapters_gradients_are_the_matrix_s_through_the_product() -> None:
    model, data = perturbed(), batch()
    _, full = loss_and_gradients(model, data)
    add_adapters(model, adapter_shapes(CONFIG, 4))
    _, found = gradients_of(Walk(model, adapter_shapes(CONFIG, 4)), data)
    for name, gradient in found.items():
        if name.endswith("lora_b"):  # a is what x is multiplied by first, and b is 0
            matrix = name.removesuffix("lora_b")
            a = np.asarray(model.tensors()[f"{matrix}lora_a"])
            assert np.abs(gradient - a.T @ full[f"{matrix}w"]).max() <= 1e-4 * np.abs(gradient).max()
        else:
            assert not gradient.any()


@pytest.mark.parametrize("time", [5, 513])
def test_attention_in_halves_is_that_of_the_whole(time: int) -> None:
    draw = np.random.default_rng(0)
    inputs = [ops.convert_to_tensor(draw.standard_normal((2, 2, time, 4)).astype("float32")) for _ in range(3)]
    dy = ops.convert_to_tensor(draw.standard_normal((2, 2, time, 4)).astype("float32"))
    bias = attention_bias(visible(np.sort(draw.integers(0, 3, (2, time)))), "float32")
    results = []
    for way in (attend, fast.attend, fast.attend_in_halves):
        y, pull = vjp(lambda inputs, way=way: way(*inputs, bias), inputs)
        results.append(dict(enumerate(np.asarray(array) for array in (y, *pull(dy)))))
    assert close(results[1], results[0]) and close(results[2], results[0])
