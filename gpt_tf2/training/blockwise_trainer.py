"""One training step, block by block: the gradients of a batch, and the update of the weights."""

import math
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import compile_in_place, compile_kernel
from gpt_tf2.data.batches import Batch, parts
from gpt_tf2.model import GPT2, Tensor
from gpt_tf2.training.blockwise import BlockwiseModel, Gradients
from gpt_tf2.training.devices import ONE_DEVICE
from gpt_tf2.training.optimizers import Optimizer, OptimizerState
from gpt_tf2.training.step_state import StepState


class BlockwiseTrainer:
    """A model with an optimizer: `step` trains it on one batch.

    The backward pass goes from the last block to the first. Each block's weights are updated as soon as its gradients
    are known, so that only one block's gradients are alive at a time (LOMO, Lv et al. 2023). Three things need all
    gradients before the first update, which takes more memory: accumulation, global-norm clipping, and float16, where
    a step whose gradients overflow is skipped.

    Args:
        model: the network. Its variables are updated in place.
        optimizer: see `optimizers.py`.
        trained: OpenAI's names of the tensors to train; all by default.
        remat: activation checkpointing: less memory, a third more time.
        accumulate: number of parts to split a batch into; their gradients are summed.
        clip_norm: the global norm to clip gradients to; 0 does not clip.
        collect: whether all gradients are computed before the first update even if nothing needs it.

    Attributes:
        trained: the trained variables by OpenAI's names.
        optimizer_state: for each of them a tuple of variables.
        step_state: the rest of what a step changes.

    Example:
        >>> trainer = BlockwiseTrainer(model, AdamW())
        >>> loss = trainer.step(batch, rate=1e-4)
    """

    devices = ONE_DEVICE
    steps_ahead = 0

    def __init__(
        self,
        model: GPT2,
        optimizer: Optimizer,
        trained: Collection[str] | None = None,
        remat: bool = False,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        collect: bool = False,
    ):
        self.model = model
        self.optimizer = optimizer
        self.trained = {name: variable for name, variable in model.tensors().items() if not trained or name in trained}
        self.blockwise = BlockwiseModel(model, self.trained, remat)
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.scales_loss = model.compute_dtype == "float16"
        self.collect = collect or accumulate > 1 or clip_norm > 0 or self.scales_loss
        self.optimizer_state = {
            name: tuple(zeros(shape) for shape in optimizer.state_shapes(variable.shape))
            for name, variable in self.trained.items()
        }
        self.step_state = StepState.first(self.scales_loss)
        self._update_part = compile_in_place(self._compute_update)
        self._add = compile_kernel(add)
        self._scale = compile_kernel(scale)
        self._sum_squares = compile_kernel(sum_squares)

    def step(self, batch: Batch, rate: float, seed: int = 0, step: int = 0) -> Any:
        """Train on a batch once.

        Args:
            rate: the learning rate.
            seed, step: decide what dropout drops.

        Returns:
            The mean loss before the update, in nats; for pairs float64 [3]; see `Trainer`.
        """
        total, losses = batch.total, []
        collected: dict[int, tuple[str, Gradients]] = {}  # by the part's number
        for part in parts(batch, self.accumulate):
            loss, backward = self.blockwise.gradients(part, self.step_state.loss_scale / total, seed, step)
            losses.append(loss)
            for number, (prefix, gradients) in enumerate(backward):
                if self.collect:
                    before = collected.get(number)
                    collected[number] = (prefix, self._add(before[1], gradients) if before else gradients)
                else:
                    self._apply(prefix, gradients, rate)
                del gradients
        self._finish(list(collected.values()), rate)
        return np.asarray(sum(losses), "float64") / total

    def loss(self, batch: Batch) -> Any:
        """Compute the mean loss on a batch, in nats, without dropout; for pairs float64 [3]."""
        return np.asarray(self.blockwise.loss(batch), "float64") / batch.total

    def _finish(self, collected: list[tuple[str, Gradients]], rate: float) -> None:
        """Apply the collected gradients, clipped and without the loss scale, and count the update.

        If float16 gradients overflowed, halve the loss scale instead.
        """
        state = self.step_state
        factor = 1 / state.loss_scale
        if self.clip_norm or self.scales_loss:
            norm = factor * math.sqrt(sum(float(self._sum_squares(gradients)) for _, gradients in collected))
            if self.scales_loss and not math.isfinite(norm):
                state.skip_update()
                return
            if self.clip_norm:
                factor *= min(1.0, self.clip_norm / (norm + 1e-6))
        while collected:
            prefix, gradients = collected.pop(0)
            self._apply(prefix, self._scale(gradients, as_array(factor)) if factor != 1 else gradients, rate)
        state.count_update(self.scales_loss)

    def _apply(self, prefix: str, gradients: Gradients, rate: float) -> None:
        """Update the weights and the optimizer state of one part, in place."""
        if not gradients:
            return
        part = {name: (self.trained[prefix + name], self.optimizer_state[prefix + name]) for name in gradients}
        self._update_part(part, gradients, as_array(rate), as_array(self.step_state.updates + 1))

    def _compute_update(
        self, part: dict[str, tuple[Tensor, OptimizerState]], gradients: Gradients, rate: Tensor, step: Tensor
    ) -> dict[str, tuple[Tensor, OptimizerState]]:
        return {
            name: self.optimizer.update(weight, gradients[name], state, rate, step)
            for name, (weight, state) in part.items()
        }


def zeros(shape: tuple[int, ...]) -> keras.Variable:
    return keras.Variable(ops.zeros(shape), trainable=False, name="state")  # TensorFlow is slow to learn a new name


def add(one: Gradients, other: Gradients) -> Gradients:
    return keras.tree.map_structure(lambda a, b: widen(a) + widen(b), one, other)


def scale(gradients: Gradients, factor: Tensor) -> Gradients:
    return keras.tree.map_structure(lambda g: widen(g) * factor, gradients)


def sum_squares(gradients: Gradients) -> Tensor:
    return sum(ops.sum(ops.square(widen(g))) for g in keras.tree.flatten(gradients))


def widen(x: Tensor) -> Tensor:
    return ops.cast(x, "float32")


def as_array(x: float) -> np.ndarray:
    """Return a number as a float32 array: a graph would be traced again for every Python number."""
    return np.asarray(x, "float32")
