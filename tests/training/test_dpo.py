"""DPO: loss, gradients and figures as torch computes them, in every way a step is computed, and what a run learns."""

import itertools

import keras
import numpy as np
import pytest

from gpt_tf2 import GPT2, GPT2Config
from gpt_tf2.checkpoints.huggingface import transformers_name
from gpt_tf2.config import adapter_shapes
from gpt_tf2.data.batches import PairBatch
from gpt_tf2.data.pairs import PackedPairs
from gpt_tf2.training.blockwise import BlockwiseModel
from gpt_tf2.training.blockwise_trainer import BlockwiseTrainer
from gpt_tf2.training.devices import ONE_DEVICE, find_devices
from gpt_tf2.training.lora import add_adapters
from gpt_tf2.training.optimizers import AdamW
from gpt_tf2.training.reference import measure_reference
from gpt_tf2.training.schedule import choose_rate
from gpt_tf2.training.trainer import Trainer, make_trainer
from helpers.preferences import draw_pairs, to_tokens

CONFIG = GPT2Config(n_vocab=300, n_ctx=32, n_embd=24, n_head=3, n_layer=2)
BETA, END = 0.3, 299
PAIRS = draw_pairs(9, CONFIG.n_vocab)


def make_model(seed: int = 1) -> GPT2:
    """A model in which no bias is 0 and no gain 1."""
    model, generator = GPT2(CONFIG), np.random.default_rng(seed)
    for variable in model.tensors().values():
        noise = generator.standard_normal(variable.shape).astype("float32")
        variable.assign(np.asarray(variable) + 0.05 * noise)
    return model


def make_data(multiple: int = 1) -> PackedPairs:
    """The pairs, with a reference that another model gave."""
    data = PackedPairs(to_tokens(PAIRS), np.arange(len(PAIRS)), 24, END, BETA, multiple)
    return data.with_reference(measure_reference(make_model(seed=2), [data], 2, lambda done, total: None)[0])


def make_batch(batch_size: int = 4) -> PairBatch:
    """All pairs in one batch."""
    data = make_data(multiple=8)
    ((_, _, batch),) = data.list_all(batch_size=9)
    assert batch.total == len(PAIRS)
    return batch


def compute_with_torch() -> tuple[list[float], dict[str, np.ndarray]]:
    """The figures and the gradients by equation 7 of Rafailov et al. 2023, one sequence at a time, with autograd."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"vocab_size": 300, "n_positions": 32, "n_embd": 24, "n_head": 3, "n_layer": 2}
    models = []
    for seed in (1, 2):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
        tensors = make_model(seed).tensors()
        state = {transformers_name(name): torch.tensor(np.asarray(v)) for name, v in tensors.items()}
        model.load_state_dict(state, strict=False)
        model.tie_weights()
        models.append(model)

    def log_ratio(prompt: list[int], completion: list[int]) -> "torch.Tensor":
        ids = torch.tensor([[*prompt, *completion, END]])
        trained, reference = (
            model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum()
            for model in models
        )
        return trained - reference.detach()

    margins = torch.stack([BETA * (log_ratio(p, chosen) - log_ratio(p, rejected)) for p, chosen, rejected in PAIRS])
    loss = -torch.nn.functional.logsigmoid(margins).mean()
    loss.backward()
    figures = [loss.item(), margins.mean().item(), (margins > 0).float().mean().item()]
    return figures, {name: p.grad.numpy() for name, p in models[0].named_parameters()}


@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_loss_and_every_gradient_equal_torchs(remat: bool) -> None:
    expected_figures, expected = compute_with_torch()
    model, batch = make_model(), make_batch()
    blockwise = BlockwiseModel(model, model.tensors(), remat)
    figures, backward = blockwise.gradients(batch, 1 / batch.total)
    gradients = {prefix + name: np.asarray(g) for prefix, part in backward for name, g in part.items()}
    assert np.asarray(figures) / batch.total == pytest.approx(expected_figures, rel=1e-4)
    assert 0.2 < expected_figures[2] < 0.8 and abs(expected_figures[1]) > 0.01
    assert len(gradients) == len(expected)
    for name, gradient in gradients.items():
        of_torch = expected[transformers_name(name)]
        assert np.abs(gradient - of_torch).max() <= 1e-4 * np.abs(of_torch).max(), name


def make_trainers(lora: int = 0, devices: int = 1, **options: object) -> list[Trainer]:
    """The trainer that runs block by block, plain; and that of this backend, with options."""
    several = find_devices(devices) if devices > 1 else ONE_DEVICE
    trainers: list[Trainer] = []
    for kind in (BlockwiseTrainer, make_trainer):
        model, trained = make_model(), None
        if lora:
            trained = adapter_shapes(CONFIG, lora)
            add_adapters(model, trained)
        others = {**options, "devices": several} if kind is make_trainer else {}
        trainers.append(kind(model, AdamW(), trained, **others))
    return trainers


ON_JAX = pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow trains on one device")


@pytest.mark.parametrize(
    "options",
    [
        {"lora": 4, "accumulate": 2},
        pytest.param({"devices": 3, "accumulate": 2}, marks=ON_JAX),
        pytest.param({"accumulate": 3}, marks=pytest.mark.slow),
        pytest.param({"clip_norm": 1e6}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_steps_are_the_same_however_they_are_computed(options: dict) -> None:
    data, results = make_data(multiple=8), []
    for trainer in make_trainers(**options):
        figures = [np.asarray(trainer.step(data.batch(0, step, 4), 1e-3)) for step in range(4)]
        results.append([*figures, trainer.loss(data.batch(0, 0, 4))])
    assert np.array(results[1]) == pytest.approx(np.array(results[0]), rel=2e-5, abs=2e-5)
    assert results[0][-1][0] < results[0][0][0]


def test_the_learning_rate_is_a_tenth_of_the_usual_one() -> None:
    for size, lora in [(124_000_000, False), (1_558_000_000, True)]:
        usual = choose_rate(size, "adamw", lora)
        assert choose_rate(size, "adamw", lora, prefers=True) == pytest.approx(usual / 10)


def test_a_model_is_indifferent_to_its_own_reference() -> None:
    data = PackedPairs(to_tokens(PAIRS), np.arange(len(PAIRS)), 24, END, BETA)
    model, shown = make_model(), []
    data = data.with_reference(measure_reference(model, [data], 2, lambda *counts: shown.append(counts))[0])
    loss, margin, accuracy = BlockwiseTrainer(model, AdamW()).loss(data.batch(0, 0, 9))
    assert loss == pytest.approx(np.log(2), abs=1e-5) and abs(margin) < 1e-5
    assert accuracy == 0.5  # rounding decides no pair
    assert shown[-1] == (9, 9) and sorted(shown) == shown
    every = itertools.chain.from_iterable((4 * i + 2, 4 * i + 3) for i in range(9))
    assert np.flatnonzero(data.reference).tolist() == list(every)
