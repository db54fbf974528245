"""The compiled step on JAX against the step that runs block by block, which torch and transformers check."""

import dataclasses
import functools
from pathlib import Path

import keras
import numpy as np
import pytest

from gpt_tf2.checkpoints.formats import locate, open_checkpoint
from gpt_tf2.checkpoints.opened import read_model
from gpt_tf2.config import GPT2Config, adapter_shapes
from gpt_tf2.data.batches import Batch, whole_rows
from gpt_tf2.model import GPT2, ReadTensor
from gpt_tf2.training.blockwise_trainer import BlockwiseTrainer
from gpt_tf2.training.devices import ONE_DEVICE, find_devices
from gpt_tf2.training.lora import add_adapters
from gpt_tf2.training.optimizers import make_optimizer
from gpt_tf2.training.state import History, load_state, save_state
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


def read_or(read: ReadTensor, others: dict[str, np.ndarray], name: str) -> np.ndarray:
    """One of the other tensors, or else what `read` returns."""
    return others[name] if name in others else read(name)


def make_pair(**options: object) -> list[Trainer]:
    """A trainer of each kind with a model of its own: block by block on one device, compiled on several if asked."""
    from gpt_tf2.training.compiled_trainer import CompiledTrainer

    options = dict(options)
    several = find_devices(options.pop("devices", 1), bool(options.pop("shard", False)))
    dropout, precision = options.pop("dropout", 0.0), options.pop("precision", "float32")
    optimizer, lora, alpha = options.pop("optimizer", "adamw"), options.pop("lora", 0), options.pop("alpha", None)
    untied, int8 = options.pop("untied", False), options.pop("int8", False)
    trainers: list[Trainer] = []
    for kind, devices in ((BlockwiseTrainer, ONE_DEVICE), (CompiledTrainer, several)):
        checkpoint = open_checkpoint(locate(OPENAI_TINY))
        config = GPT2Config.from_json(OPENAI_TINY / "hparams.json")
        if untied:
            head = checkpoint.read("wte")[::-1].copy()
            config, shapes = dataclasses.replace(config, tied=False), checkpoint.shapes | {"lm_head": head.shape}
            read = functools.partial(read_or, checkpoint.read, {"lm_head": head})
            checkpoint = dataclasses.replace(checkpoint, shapes=shapes, read=read)
        model: GPT2 = read_model(checkpoint, config, dropout, precision, place=devices.place, int8=int8)
        if lora:
            shapes = adapter_shapes(model.config, lora)
            add_adapters(model, shapes, seed=0, alpha=alpha)
            options["trained"] = list(shapes)
        placed = {} if devices is ONE_DEVICE else {"devices": devices}
        trainers.append(kind(model, make_optimizer(optimizer, 0.1), **options, **placed))
    return trainers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"lora": 4, "alpha": 10},
        {"untied": True},
        {"optimizer": "lion"},
        {"devices": 3, "accumulate": 2},
        {"devices": 8, "shard": True},
        *[
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"clip_norm": 0.5},
                {"remat": True},
                {"trained": ["h1/attn/c_attn/w", "ln_f/g"]},
                {"optimizer": "adafactor"},
                {"optimizer": "muon"},
                {"dropout": 0.2},
                {"devices": 8},
                {"devices": 8, "shard": True, "accumulate": 3, "clip_norm": 0.5},
                {"devices": 8, "shard": True, "remat": True, "optimizer": "adafactor"},
                {"devices": 8, "shard": True, "optimizer": "muon"},
                {"devices": 8, "shard": True, "untied": True},
                {"trained": ["lm_head"], "untied": True},
                {"lora": 4, "int8": True, "accumulate": 2, "remat": True, "dropout": 0.2},
                {"devices": 8, "shard": True, "lora": 4, "alpha": 10},
                {"devices": 8, "shard": True, "lora": 4, "int8": True, "optimizer": "adafactor"},
                {"devices": 8, "shard": True, "trained": ["h1/attn/c_attn/w", "ln_f/g"]},
            )
        ],
    ],
    ids=str,
)
def test_ten_steps_equal_those_block_by_block(options: dict) -> None:
    whole = make_batches()
    packed = [pack(batch) for batch in whole]
    for batches in (packed,) if options else (whole, packed):
        (losses, weights, loss), (other_losses, other_weights, other_loss) = (
            run(trainer, batches) for trainer in make_pair(**options)
        )
        assert other_losses == pytest.approx(losses, rel=1e-5)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert weights.keys() == other_weights.keys()
        for name, weight in weights.items():
            assert np.linalg.norm(other_weights[name] - weight) < 1e-5 * np.linalg.norm(weight), name


def test_split_weights_and_their_optimizer_state_lie_in_shares_on_the_devices() -> None:
    _, compiled = make_pair(devices=8, shard=True)
    compiled.step(make_batches()[0], 1e-3)
    for name, variable in compiled.trained.items():
        for tensor in (variable, *compiled.optimizer_state[name]):
            shares = {share.data.size for share in tensor.value.addressable_shards}
            assert shares == {tensor.value.size // 8}, name
            assert len(tensor.value.addressable_shards) == 8


def test_each_device_drops_other_activations_and_the_same_ones_for_the_same_seed_and_step() -> None:
    _, compiled = make_pair(devices=8, dropout=0.5)
    text = make_batches()[0].tokens[:1]
    batch = whole_rows(np.tile(text, (8, 1)))  # the same text on each device
    losses = [float(compiled.step(batch, 0.0, seed, step)) for seed, step in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert losses[3] == losses[0] and len(set(losses)) == 3
    of_first_device = float(compiled.step(whole_rows(text), 0.0, 1, 0))
    assert losses[0] != pytest.approx(of_first_device, rel=1e-3)


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


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.5},
        pytest.param({"devices": 8, "shard": True, "optimizer": "adafactor"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_state_written_by_either_trainer_resumes_in_the_other(options: dict, tmp_path: Path) -> None:
    batches = make_batches()
    uninterrupted, _, _ = run(make_pair(**options)[0], batches)
    for writer in (0, 1):
        first, second = make_pair(**options)[writer], make_pair(**options)[1 - writer]
        losses, _, _ = run(first, batches[:5])
        save_state(tmp_path / "state.h5", first, History(losses.tolist()), {"--model": "tiny"})
        history = load_state(tmp_path / "state.h5", second, {"--model": "tiny"})
        assert history.losses == losses.tolist() and second.step_state.updates == 5
        rest = [float(second.step(batch, 1e-3, seed=3, step=5 + i)) for i, batch in enumerate(batches[5:])]
        assert [*losses, *rest] == pytest.approx(uninterrupted, rel=1e-5)


def test_packed_batches_of_every_size_share_a_few_shapes_when_they_are_split() -> None:
    from gpt_tf2.training.compiled_trainer import split

    draw = np.random.default_rng(0)
    for accumulate, devices in ((4, ONE_DEVICE), (1, find_devices(4)), (2, find_devices(2))):
        shapes = set()
        for batch in map(pack, (whole_rows(draw.integers(0, 512, (8, 32))) for _ in range(30))):
            learned = np.sort(draw.choice(len(batch.picks), draw.integers(1, len(batch.picks)), replace=False))
            some = dataclasses.replace(
                batch,
                picks=np.pad(batch.picks[learned], (0, 5)),
                targets=np.pad(batch.targets[learned], (0, 5)),
                weights=np.pad(batch.weights[learned], (0, 5)),
            )
            micro = split(some, accumulate, devices)
            shapes.add(tuple(np.shape(array) for array in micro[0].values()))
            assert sum(float(np.sum(each["weights"])) for each in micro) == len(learned)
        assert len(shapes) <= 4
