"""One training step: the gradients of a batch, and the update of the weights."""

import math
from collections.abc import Collection

import keras
import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import in_place, kernel
from gpt_tf2.data.batches import Batch, parts
from gpt_tf2.model import GPT2, Tensor
from gpt_tf2.training.optimizers import Optimizer, Slots
from gpt_tf2.training.state import Progress
from gpt_tf2.training.walk import Gradients, Place, Walk, unmoved

MOST_SCALE, SCALE_STEPS = 2.0**24, 2000  # float16's, and how many updates it must hold before it is doubled


class Trainer:
    """A model with its optimizer.

    A part's weights are updated as soon as their gradients are there (Lv et al. 2023), unless something must see all
    gradients first: accumulation, a bound of their norm, or float16, whose update is left out where they overflow.

    Args:
        trained: OpenAI's names of the tensors that are trained; all by default.
        remat: see `Walk`.
        accumulate: in how many parts a batch goes through, one after another.
        clip_norm: the most that the norm of all gradients may be; 0 is any.
        gather: all gradients first in any case.
        place: see `Walk`.
    """

    def __init__(
        self,
        model: GPT2,
        optimizer: Optimizer,
        trained: Collection[str] | None = None,
        remat: bool = False,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        gather: bool = False,
        place: Place = unmoved,
    ):
        self.model = model
        self.optimizer = optimizer
        self.trained = {name: variable for name, variable in model.tensors().items() if not trained or name in trained}
        self.walk = Walk(model, self.trained, remat, place)
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.scales = model.compute_dtype == "float16"
        self.gather = gather or accumulate > 1 or clip_norm > 0 or self.scales
        self.slots = {
            name: tuple(new_slot(shape, f"{name}/{i}") for i, shape in enumerate(optimizer.slots(variable.shape)))
            for name, variable in self.trained.items()
        }
        self.progress = Progress(scale=2.0**15 if self.scales else 1.0)
        self._update = in_place(self._update_graph)
        self._add = kernel(lambda one, other: keras.tree.map_structure(lambda a, b: wide(a) + wide(b), one, other))
        self._times = kernel(lambda gradients, factor: keras.tree.map_structure(lambda g: wide(g) * factor, gradients))
        self._squares = kernel(
            lambda gradients: sum(ops.sum(ops.square(wide(g))) for g in keras.tree.flatten(gradients))
        )

    def step(self, batch: Batch, rate: float, seed: int = 0, step: int = 0) -> float:
        """One update → the mean loss before it, in nats. seed, step: of the dropouts."""
        total, losses = float(batch.weights.sum()), []
        gathered: dict[int, tuple[str, Gradients]] = {}
        for part in parts(batch, self.accumulate):
            loss, back = self.walk.gradients(part, self.progress.scale / total, seed, step)
            losses.append(loss)
            for number, (prefix, gradients) in enumerate(back):
                if self.gather:
                    before = gathered.get(number)
                    gathered[number] = (prefix, self._add(before[1], gradients) if before else gradients)
                else:
                    self._apply(prefix, gradients, rate)
                del gradients
        self._finish(list(gathered.values()), rate)
        return float(sum(losses)) / total

    def loss(self, batch: Batch) -> float:
        """The mean loss on a batch, in nats."""
        return float(self.walk.loss(batch)) / float(batch.weights.sum())

    def _finish(self, gathered: list[tuple[str, Gradients]], rate: float) -> None:
        progress, factor = self.progress, 1 / self.progress.scale
        if self.clip_norm or self.scales:
            norm = factor * math.sqrt(sum(float(self._squares(gradients)) for _, gradients in gathered))
            if self.scales and not math.isfinite(norm):
                progress.scale, progress.held = max(progress.scale / 2, 1.0), 0
                return
            if self.clip_norm:
                factor *= min(1.0, self.clip_norm / (norm + 1e-6))
        while gathered:
            prefix, gradients = gathered.pop(0)
            self._apply(prefix, self._times(gradients, as_float(factor)) if factor != 1 else gradients, rate)
        progress.updates += 1
        progress.held += 1
        if self.scales and progress.held == SCALE_STEPS:
            progress.scale, progress.held = min(progress.scale * 2, MOST_SCALE), 0

    def _apply(self, prefix: str, gradients: Gradients, rate: float) -> None:
        if not gradients:
            return
        state = {name: (self.trained[prefix + name], self.slots[prefix + name]) for name in gradients}
        self._update(state, gradients, as_float(rate), as_float(self.progress.updates + 1))

    def _update_graph(
        self, state: dict[str, tuple[Tensor, Slots]], gradients: Gradients, rate: Tensor, step: Tensor
    ) -> dict[str, tuple[Tensor, Slots]]:
        return {
            name: self.optimizer.update(weight, gradients[name], slots, rate, step)
            for name, (weight, slots) in state.items()
        }


def new_slot(shape: tuple[int, ...], name: str) -> keras.Variable:
    return keras.Variable(ops.zeros(shape), trainable=False, name=name.replace("/", "_"))


def wide(x: Tensor) -> Tensor:
    return ops.cast(x, "float32")


def as_float(x: float) -> np.ndarray:
    """A number as an array: as a plain number every value would be traced anew."""
    return np.asarray(x, "float32")
