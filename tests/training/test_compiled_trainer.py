"""The compiled step on JAX against the step that runs block by block, which torch and transformers check."""

import keras
import numpy as np
import pytest

from gpt_tf2 import load_model
from gpt_tf2.config import adapter_shapes
from gpt_tf2.data.batches import Batch, whole_rows
from gpt_tf2.model import GPT2
from gpt_tf2.training.blockwise_trainer import BlockwiseTrainer
from gpt_tf2.training.lora import add_adapters
from gpt_tf2.training.optimizers import make_optimizer
from gpt_tf2.training.trainer import Trainer
from helpers.workplace import OPENAI_TINY

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="the compiled step runs on JAX")

STEPS = 10
KEY_BIAS = slice(48, 96)  # of a block's c_attn/b: its true gradient is 0, so Adam follows the rounding


def make_batches() -> list[Batch]:
    draw = np.random.default_rng(0)
    return [whole_rows(draw.integers(0, 512, (4, 32))) for _ in range(STEPS)]


def pack(batch: Batch) -> Batch:
    """Cuts each sequence into two segments and padding; every third token is not learned."""
    positions, segments = batch.positions.copy(), batch.segments.copy()
    positions[:, 20:] -= 20
    segments[:, 20:], segments[3, 28:] = 2, 0
    learned = np.arange(len(batch.picks)) % 3 > 0
    return Batch(
        batch.tokens, positions, segments, batch.picks[learned], batch.targets[learned], batch.weights[learned]
    )


def run(trainer: Trainer, batches: list[Batch]) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """The losses of the steps, the weights after them, and the loss on the first batch."""
    losses = [float(trainer.step(batch, 1e-3, seed=3, step=step)) for step, batch in enumerate(batches)]
    weights = {name: np.array(variable) for name, variable in trainer.trained.items()}
    for name, weight in weights.items():
        if name.endswith("c_attn/b"):
            weight[KEY_BIAS] = 0
    return np.array(losses), weights, trainer.loss(batches[0])


def make_pair(**options: object) -> list[Trainer]:
    """A trainer of each kind with a model of its own."""
    from gpt_tf2.training.compiled_trainer import CompiledTrainer

    options = dict(options)
    dropout, precision = options.pop("dropout", 0.0), options.pop("precision", "float32")
    optimizer, lora = options.pop("optimizer", "adamw"), options.pop("lora", 0)
    trainers: list[Trainer] = []
    for kind in (BlockwiseTrainer, CompiledTrainer):
        model: GPT2 = load_model(OPENAI_TINY, dropout=dropout, precision=precision)
        if lora:
            shapes = adapter_shapes(model.config, lora)
            add_adapters(model, shapes, seed=0)
            options["trained"] = list(shapes)
        trainers.append(kind(model, make_optimizer(optimizer, 0.1), **options))
    return trainers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"lora": 4},
        {"optimizer": "lion"},
        *[
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"clip_norm": 0.5},
                {"remat": True},
                {"trained": ["h1/attn/c_attn/w", "ln_f/g"]},
                {"optimizer": "adafactor"},
                {"optimizer": "muon"},
                {"dropout": 0.2},
            )
        ],
    ],
    ids=str,
)
def test_ten_steps_equal_those_block_by_block(options: dict) -> None:
    for batches in (make_batches(), [pack(batch) for batch in make_batches()]):
        (losses, weights, loss), (other_losses, other_weights, other_loss) = (
            run(trainer, batches) for trainer in make_pair(**options)
        )
        assert other_losses == pytest.approx(losses, rel=1e-5)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert weights.keys() == other_weights.keys()
        for name, weight in weights.items():
            assert np.linalg.norm(other_weights[name] - weight) < 1e-5 * np.linalg.norm(weight), name


def test_float16_skips_a_step_whose_gradients_overflow() -> None:
    blockwise, compiled = make_pair(precision="float16")
    for trainer in (blockwise, compiled):
        before = {name: np.array(variable) for name, variable in trainer.trained.items()}
        trainer.step_state.loss_scale = 2.0**24
        trainer.step(make_batches()[0], 1e-3)
        assert trainer.step_state.loss_scale == 2.0**23 and trainer.step_state.updates == 0
        assert all(np.array_equal(before[name], np.array(variable)) for name, variable in trainer.trained.items())
    one, other = (run(trainer, make_batches())[0] for trainer in (blockwise, compiled))
    assert other == pytest.approx(one, rel=1e-3)


def test_a_step_goes_on_from_weights_that_were_loaded_meanwhile() -> None:
    _, compiled = make_pair()
    batch = make_batches()[0]
    first = float(compiled.step(batch, 1e-2))
    saved = {name: np.array(variable) for name, variable in compiled.trained.items()}
    later = float(compiled.step(batch, 1e-2))
    assert later < first
    for name, variable in compiled.trained.items():
        variable.assign(saved[name])
    assert float(compiled.step(batch, 1e-2)) == later
