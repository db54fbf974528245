"""Keras's callbacks on a training run, and the run's history as Keras tells it."""

from typing import Any

import keras
import numpy as np

from gpt_tf2.training.schedule import Schedule
from gpt_tf2.training.state import History
from gpt_tf2.training.trainer import Trainer


class Callbacks:
    """Calls Keras's callbacks as `fit` does. Without any, a run does not wait for the losses of its steps.

    Callbacks see the network with its current weights. Weights that they set are trained on, saved and returned.

    Args:
        callbacks: those of `keras.callbacks`.
        trainer: of the run.
        history: the losses so far, also those of an earlier process.
        schedule: the learning rate of each step.
        steps: in an epoch.
        epochs: in all.

    Attributes:
        is_stopping: whether a callback has set `model.stop_training`.
    """

    def __init__(self, callbacks: Any, trainer: Trainer, history: History, schedule: Schedule, steps: int, epochs: int):
        self.trainer, self.history, self.schedule, self.steps = trainer, history, schedule, steps
        self.list = keras.callbacks.CallbackList(callbacks, model=trainer.model, steps=steps, epochs=epochs, verbose=0)
        self.epoch: int | None = None  # that has begun and not ended
        self.is_stopping = False
        self.steps_ahead = 0 if self.list.callbacks else trainer.steps_ahead

    def begin_training(self) -> None:
        if self.list.callbacks:
            network = self.trainer.model
            network.stop_training = False
            if not hasattr(network, "optimizer"):  # TensorBoard reads it; a network that was not compiled has none
                network.optimizer = None
            self.list.on_train_begin()

    def begin_step(self, step: int) -> None:
        """Called before a step, counted from 0."""
        if self.epoch is None:
            self.epoch = step // self.steps
            self.list.on_epoch_begin(self.epoch)
        self.list.on_train_batch_begin(step % self.steps)

    def end_step(self, step: int) -> None:
        """Called when the history has the step's loss, if there are callbacks."""
        if self.list.callbacks:
            network = self.trainer.model  # its weights up to date
            self.list.on_train_batch_end(step % self.steps, {"loss": self.history.losses[-1]})
            self.is_stopping = network.stop_training

    def end_epoch(self) -> None:
        """Called after the epoch's validation."""
        if self.list.callbacks and self.epoch is not None:
            self.list.on_epoch_end(self.epoch, summarize_epoch(self.epoch, self.history, self.schedule, self.steps))
            self.is_stopping = self.trainer.model.stop_training
        self.epoch = None

    def end_training(self) -> None:
        """Called before the last save. As in Keras, a run that a signal interrupts does not call it."""
        if self.list.callbacks:
            self.list.on_train_end()


def summarize_epoch(epoch: int, history: History, schedule: Schedule, steps: int) -> dict[str, float]:
    """An epoch's mean `loss`, its `val_loss` if it ended with a validation, and its last learning rate, `lr`.

    Args:
        epoch: counted from 0. The last one of a run may have ended early.
        steps: in an epoch.
    """
    first, last = epoch * steps, min((epoch + 1) * steps, len(history.losses))
    logs = {"loss": float(np.mean(history.losses[first:last]))}
    if last in (validations := dict(history.validation)):
        logs["val_loss"] = validations[last]
    return logs | {"lr": schedule(last - 1)}


def summarize_epochs(history: History, schedule: Schedule, steps: int) -> dict[str, list[float]]:
    """The summaries of all epochs, as lists by name; `val_loss` has those of the epochs that ended with a validation.

    Example:
        >>> summarize_epochs(History([4.0, 3.0], [(2, 3.5)]), lambda step: 0.1, steps=1)
        {'loss': [4.0, 3.0], 'val_loss': [3.5], 'lr': [0.1, 0.1]}
    """
    epochs = range(-(-len(history.losses) // steps))
    logs = [summarize_epoch(epoch, history, schedule, steps) for epoch in epochs]
    names = ("loss", "val_loss", "lr")
    return {name: [each[name] for each in logs if name in each] for name in names if any(name in each for each in logs)}
