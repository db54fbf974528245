"""The training loop."""

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import numpy as np

from gpt_tf2.data.batches import Batches
from gpt_tf2.errors import InputError
from gpt_tf2.training.monitor import Monitor
from gpt_tf2.training.schedule import Schedule
from gpt_tf2.training.state import History
from gpt_tf2.training.trainer import Trainer

VALIDATION_WINDOWS = 64  # the most that one validation takes


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and what happens after how many steps; 0 is never."""

    steps: int
    batch_size: int
    seed: int
    validate_every: int
    sample_every: int
    save_every: int


def train(
    trainer: Trainer,
    schedule: Schedule,
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
            rate = schedule(step)
            loss = trainer.step(batch, rate, plan.seed, step)
            if not math.isfinite(loss):
                raise diverged(f"step {step + 1}: the loss is {loss}")
            history.losses.append(loss)
            done = step + 1
            monitor.step(done, loss, rate, batch.size)
            stopping = stopped.is_set()
            if validation and (due(done, plan.validate_every) or done == plan.steps):
                validate(trainer, validation, plan, history, monitor)
            if due(done, plan.sample_every):
                monitor.say(sample())
                monitor.restart_clock()
            if due(done, plan.save_every) or done == plan.steps or stopping:
                check_finite(trainer, done)
                save()
                monitor.restart_clock()
            if stopping:
                return done == plan.steps
    return True


def validate(trainer: Trainer, validation: Batches, plan: Plan, history: History, monitor: Monitor) -> None:
    """Adds the mean loss over the validation windows to the history."""
    batches = list(validation.windows(plan.batch_size, VALIDATION_WINDOWS))
    losses = [trainer.loss(batch) for batch in batches]
    loss = float(np.average(losses, weights=[batch.weights.sum() for batch in batches]))
    history.validation.append((len(history.losses), loss))
    monitor.validated(len(history.losses), loss)


def due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0


def check_finite(trainer: Trainer, done: int) -> None:
    for name, variable in trainer.trained.items():
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
