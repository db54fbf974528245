"""The optimizers against torch's and Keras's. Runs on either backend."""

import keras
import numpy as np
import pytest

from gpt_tf2.backend.compiling import in_place
from gpt_tf2.training.optimizers import SLICE, Adafactor, AdamW, Lion, Muon, Optimizer

SHAPES = [(30, 20), (12,)]
RATE, DECAY = 1e-3, 0.1


def gradients(shape: tuple[int, ...], steps: int = 6) -> list[np.ndarray]:
    """Of which half are 0, and in a matrix a whole row."""
    draw = np.random.default_rng(0)
    found = [draw.normal(0, 0.01, shape).astype("float32") * (draw.random(shape) < 0.5) for _ in range(steps)]
    for gradient in found:
        gradient[3:4] *= gradient.ndim == 1
    return [gradient.astype("float32") for gradient in found]


def start(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, shape).astype("float32")


def moved(optimizer: Optimizer, shape: tuple[int, ...], dtype: str = "float32", rate: float = RATE) -> np.ndarray:
    """How far some steps take a tensor."""
    weight = keras.Variable(start(shape))
    slots = tuple(keras.Variable(np.zeros(slot, "float32")) for slot in optimizer.slots(shape))
    step = in_place(lambda state, gradient, rate, number: optimizer.update(state[0], gradient, state[1], rate, number))
    for number, gradient in enumerate(gradients(shape), start=1):
        settings = np.asarray(rate, "float32"), np.asarray(number, "float32")
        step((weight, slots), keras.ops.cast(gradient, dtype), *settings)
    return np.asarray(weight) - start(shape)


def moved_by_torch(name: str, shape: tuple[int, ...], **options: object) -> np.ndarray:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.tensor(start(shape)))
    # Vectors do not decay here.
    optimizer = getattr(torch.optim, name)([weight], lr=RATE, weight_decay=DECAY * (len(shape) == 2), **options)
    for gradient in gradients(shape):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.detach().numpy() - start(shape)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_adamw_and_adafactor_are_torchs(kind: type, shape: tuple[int, ...]) -> None:
    assert relative(moved(kind(DECAY), shape), moved_by_torch(kind.__name__, shape)) <= 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_lion_is_keras_s(shape: tuple[int, ...]) -> None:
    optimizer = keras.optimizers.Lion(RATE, beta_1=0.9, beta_2=0.99, weight_decay=DECAY if len(shape) == 2 else None)
    weight = keras.Variable(start(shape))
    for gradient in gradients(shape):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
    assert relative(moved(Lion(DECAY), shape), np.asarray(weight) - start(shape)) <= 1e-5


def test_muon_is_torchs_on_matrices_and_adamw_elsewhere() -> None:
    # torch orthogonalizes in bfloat16.
    expected = moved_by_torch("Muon", SHAPES[0], adjust_lr_fn="match_rms_adamw")
    assert relative(moved(Muon(DECAY), SHAPES[0]), expected) <= 0.02
    for shape in (SHAPES[1], (500, 8)):  # a vector, and an embedding
        assert np.array_equal(moved(Muon(DECAY), shape), moved(AdamW(DECAY), shape))


def test_adafactor_of_a_large_matrix_is_that_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one is gone through in slices of rows. At a large rate a weight's last bit blurs nothing."""
    whole = {dtype: moved(Adafactor(), (30, 20), dtype, rate=0.1) for dtype in ("float32", "bfloat16")}
    monkeypatch.setattr("gpt_tf2.training.optimizers.SLICE", 7 * 20)
    assert SLICE > 30 * 20
    for dtype, expected in whole.items():
        assert relative(moved(Adafactor(), (30, 20), dtype, rate=0.1), expected) <= 1e-5
