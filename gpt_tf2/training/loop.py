"""The training loop."""

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import keras
import numpy as np

from gpt_tf2.backend import use_xla
from gpt_tf2.errors import InputError
from gpt_tf2.model import GPT2
from gpt_tf2.training.batches import Batch, Batches
from gpt_tf2.training.loss import NextToken, next_token_loss
from gpt_tf2.training.monitor import Monitor
from gpt_tf2.training.state import History

VALIDATION_WINDOWS = 64  # the most that one validation takes
DRAWS = 1 << 12  # random states kept for the dropouts of one step


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and what happens after how many steps; 0 is never."""

    steps: int
    batch_size: int
    seed: int
    validate_every: int
    sample_every: int
    save_every: int


def trainer_of(model: GPT2, optimizer: keras.Optimizer, eager: bool = False) -> NextToken:
    """Joins model, loss and optimizer into one training step."""
    trainer = NextToken(model)
    optimizer.build(trainer.trainable_variables)
    trainer.compile(optimizer, loss=next_token_loss(), run_eagerly=eager, jit_compile=use_xla() and not eager)
    return trainer


def train(
    trainer: NextToken,
    data: Batches,
    validation: Batches | None,
    plan: Plan,
    history: History,
    monitor: Monitor,
    save: Callable[[], None],
    sample: Callable[[], str],
) -> bool:
    """Trains from the history's last step on; a step depends on the seed and its own number alone.

    Args:
        history: is added to.
        save: is called every `save_every` steps, at the end, and when SIGINT or SIGTERM asks to stop.
        sample: a text to show.

    Returns:
        Whether the plan was finished; False if it was stopped.

    Raises InputError if the loss or a weight is no longer finite; nothing is saved then.
    """
    with stop_on_signal() as stopped:
        if validation and not history.validation:
            validate(trainer, validation, plan, history, monitor)
        if len(history.losses) >= plan.steps:
            save()  # the last process may have ended between saving the state and the model
        for step in range(len(history.losses), plan.steps):
            batch = data.batch(plan.seed, step, plan.batch_size)
            loss = train_step(trainer, batch, plan.seed, step)
            if not math.isfinite(loss):
                raise diverged(f"step {step + 1}: the loss is {loss}")
            history.losses.append(loss)
            done = step + 1
            monitor.step(done, loss, float(trainer.optimizer.learning_rate), batch.size)
            stopping = stopped.is_set()
            if validation and (due(done, plan.validate_every) or done == plan.steps):
                validate(trainer, validation, plan, history, monitor)
            if due(done, plan.sample_every):
                monitor.say(sample())
                monitor.restart_clock()
            if due(done, plan.save_every) or done == plan.steps or stopping:
                check_finite(trainer.gpt2, done)
                save()
                monitor.restart_clock()
            if stopping:
                return done == plan.steps
    return True


def train_step(trainer: NextToken, batch: Batch, seed: int, step: int) -> float:
    """One update → the loss before it."""
    trainer.gpt2.dropout_seed.state.assign(np.array([seed, step * DRAWS]).astype("uint32"))
    return float(np.ravel(trainer.train_on_batch(batch.inputs(), batch.targets, batch.weights))[0])


def validate(trainer: NextToken, validation: Batches, plan: Plan, history: History, monitor: Monitor) -> None:
    """Adds the mean loss over the validation windows to the history."""
    batches = list(validation.windows(plan.batch_size, VALIDATION_WINDOWS))
    losses = [validate_batch(trainer, batch) for batch in batches]
    loss = float(np.average(losses, weights=[batch.weights.sum() for batch in batches]))
    history.validation.append((len(history.losses), loss))
    monitor.validated(len(history.losses), loss)


def validate_batch(trainer: NextToken, batch: Batch) -> float:
    """The mean loss on a batch."""
    return float(np.ravel(trainer.test_on_batch(batch.inputs(), batch.targets, batch.weights))[0])


def due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0


def check_finite(model: GPT2, done: int) -> None:
    for name, variable in model.tensors().items():
        if not np.isfinite(np.asarray(variable)).all():
            raise diverged(f"step {done}: {name} is not finite after the update")


def diverged(what: str) -> InputError:
    return InputError(f"{what}: training has diverged, the last save is kept; lower --base_lr and start again")


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second SIGINT interrupts at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
