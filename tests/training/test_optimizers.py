"""The optimizers against those of torch and Keras. Runs on either backend."""

import keras
import numpy as np
import pytest

from gpt_tf2.backend.compiling import compile_in_place
from gpt_tf2.training.optimizers import SLICE, Adafactor, AdamW, Lion, Muon, Optimizer

SHAPES = [(30, 20), (12,)]
RATE, WEIGHT_DECAY = 1e-3, 0.1


def make_gradients(shape: tuple[int, ...], steps: int = 6) -> list[np.ndarray]:
    """Gradients of which half are 0, in a matrix also a whole row."""
    draw = np.random.default_rng(0)
    gradients = [draw.normal(0, 0.01, shape).astype("float32") * (draw.random(shape) < 0.5) for _ in range(steps)]
    for gradient in gradients:
        gradient[3:4] *= gradient.ndim == 1
    return [gradient.astype("float32") for gradient in gradients]


def make_weight(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, shape).astype("float32")


def train(optimizer: Optimizer, shape: tuple[int, ...], dtype: str = "float32", rate: float = RATE) -> np.ndarray:
    """What some steps add to a weight. dtype: of the gradients."""
    weight = keras.Variable(make_weight(shape))
    state = tuple(keras.Variable(np.zeros(size, "float32")) for size in optimizer.state_shapes(shape))
    step = compile_in_place(
        lambda part, gradient, rate, number: optimizer.update(part[0], gradient, part[1], rate, number)
    )
    for number, gradient in enumerate(make_gradients(shape), start=1):
        numbers = np.asarray(rate, "float32"), np.asarray(number, "float32")
        step((weight, state), keras.ops.cast(gradient, dtype), *numbers)
    return np.asarray(weight) - make_weight(shape)


def train_with_torch(name: str, shape: tuple[int, ...], **options: object) -> np.ndarray:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.tensor(make_weight(shape)))
    # Ours do not decay vectors.
    decay = WEIGHT_DECAY * (len(shape) == 2)
    optimizer = getattr(torch.optim, name)([weight], lr=RATE, weight_decay=decay, **options)
    for gradient in make_gradients(shape):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.detach().numpy() - make_weight(shape)


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference as a share of the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [AdamW, Adafactor])
def test_adamw_and_adafactor_equal_torchs(kind: type, shape: tuple[int, ...]) -> None:
    expected = train_with_torch(kind.__name__, shape)
    assert relative_difference(train(kind(WEIGHT_DECAY), shape), expected) <= 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_lion_equals_keras_lion(shape: tuple[int, ...]) -> None:
    decay = WEIGHT_DECAY if len(shape) == 2 else None
    optimizer = keras.optimizers.Lion(RATE, beta_1=0.9, beta_2=0.99, weight_decay=decay)
    weight = keras.Variable(make_weight(shape))
    for gradient in make_gradients(shape):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
    expected = np.asarray(weight) - make_weight(shape)
    assert relative_difference(train(Lion(WEIGHT_DECAY), shape), expected) <= 1e-5


def test_muon_equals_torchs_on_matrices_and_is_adamw_elsewhere() -> None:
    # torch orthogonalizes in bfloat16.
    expected = train_with_torch("Muon", SHAPES[0], adjust_lr_fn="match_rms_adamw")
    assert relative_difference(train(Muon(WEIGHT_DECAY), SHAPES[0]), expected) <= 0.02
    for shape in (SHAPES[1], (500, 8)):  # a vector, and an embedding
        assert np.array_equal(train(Muon(WEIGHT_DECAY), shape), train(AdamW(WEIGHT_DECAY), shape))


def test_adafactor_computes_the_same_in_slices_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only large matrices are sliced. The rate is large, so that rounding of the weight hides nothing."""
    whole = {dtype: train(Adafactor(), (30, 20), dtype, rate=0.1) for dtype in ("float32", "bfloat16")}
    monkeypatch.setattr("gpt_tf2.training.optimizers.SLICE", 7 * 20)
    assert SLICE > 30 * 20
    for dtype, expected in whole.items():
        assert relative_difference(train(Adafactor(), (30, 20), dtype, rate=0.1), expected) <= 1e-5
