"""What trains a model: one step's interface, and the choice of who runs it."""

from collections.abc import Collection
from typing import Any, Protocol

import keras

from gpt_tf2.data.batches import Batch
from gpt_tf2.model import GPT2
from gpt_tf2.training.devices import ONE_DEVICE, Devices
from gpt_tf2.training.optimizers import Optimizer
from gpt_tf2.training.step_state import StepState


class Trainer(Protocol):
    """A model with an optimizer.

    model: the network. Its variables are updated in place.
    trained: the trained variables by OpenAI's names.
    optimizer_state: for each of them a tuple of variables.
    step_state: the rest of what a step changes.
    devices: where the variables lie.
    steps_ahead: how many steps may run while the loss of an earlier one has not been read.
    """

    step_state: StepState
    devices: Devices
    steps_ahead: int

    @property
    def model(self) -> GPT2: ...

    @property
    def trained(self) -> dict[str, keras.Variable]: ...

    @property
    def optimizer_state(self) -> dict[str, tuple[keras.Variable, ...]]: ...

    def step(self, batch: Batch, rate: float, seed: int = 0, step: int = 0) -> Any:
        """Train on a batch once.

        Args:
            rate: the learning rate.
            seed, step: decide what dropout drops.

        Returns:
            The mean loss before the update, in nats; for pairs an array [3], their mean `FIGURES` (`dpo.py`). Reading
            it waits until the device is done.
        """

    def loss(self, batch: Batch) -> Any:
        """Compute the mean loss on a batch, in nats, without dropout; for pairs an array [3], as in `step`."""


def make_trainer(
    model: GPT2,
    optimizer: Optimizer,
    trained: Collection[str] | None = None,
    remat: bool = False,
    accumulate: int = 1,
    clip_norm: float = 0.0,
    devices: Devices = ONE_DEVICE,
) -> Trainer:
    """The trainer for the running backend: JAX compiles a step to one graph, TensorFlow runs it block by block.

    Args:
        trained: OpenAI's names of the tensors to train; all by default.
        remat: activation checkpointing: less memory, a third more time.
        accumulate: number of micro-batches to split a batch into; their gradients are summed.
        clip_norm: the global norm to clip gradients to; 0 does not clip.
        devices: to train on; the model is placed on them.

    Example:
        >>> trainer = make_trainer(model, AdamW())
        >>> loss = float(trainer.step(batch, rate=1e-4))
    """
    if keras.backend.backend() == "jax":
        from gpt_tf2.training.compiled_trainer import CompiledTrainer

        return CompiledTrainer(model, optimizer, trained, remat, accumulate, clip_norm, devices)
    from gpt_tf2.training.blockwise_trainer import BlockwiseTrainer

    return BlockwiseTrainer(model, optimizer, trained, remat, accumulate, clip_norm)
