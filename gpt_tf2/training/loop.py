"""The training loop: steps, validations, samples and saves."""

import contextlib
import dataclasses
import math
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any

import numpy as np

from gpt_tf2.data.batches import Batch, Batches
from gpt_tf2.errors import InputError
from gpt_tf2.training.best import BestWeights, count_without_improvement
from gpt_tf2.training.callbacks import Callbacks
from gpt_tf2.training.dpo import FIGURES
from gpt_tf2.training.monitor import Monitor
from gpt_tf2.training.schedule import Schedule
from gpt_tf2.training.state import History
from gpt_tf2.training.trainer import Trainer

VALIDATION_WINDOWS = 64  # at most, in one validation
BATCHES_AHEAD = 2  # prepared while a step runs


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """How long to train, on which batches, and what to do every so many steps (0: never).

    steps: in all, those of an earlier process included.
    batch_size: sequences per step.
    seed: of the batches and of dropout.
    epoch: the steps of an epoch.
    patience: the validations without a lower loss that end the training early (0: never).
    """

    steps: int
    batch_size: int
    seed: int
    epoch: int
    validate_every: int
    patience: int
    sample_every: int
    save_every: int


def train(
    trainer: Trainer,
    schedule: Schedule,
    data: Batches,
    validation: Batches | None,
    plan: TrainingPlan,
    history: History,
    monitor: Monitor,
    callbacks: Callbacks,
    best: BestWeights,
    save: Callable[[], None],
    sample: Callable[[], str],
) -> bool:
    """Train from the history's last step to the end of the plan. A step depends only on the seed and its own number.

    Args:
        validation: held-out data; None skips validation.
        history: losses so far; new ones are appended.
        callbacks: of Keras; an epoch ends with its validation, if one is due. They may end the training.
        best: writes the weights whenever a validation is better than all before; the next step waits for it.
        save: called every `save_every` steps, at the end, and after the step during which SIGINT, SIGTERM or SIGHUP
            arrived.
        sample: returns a text to show.

    Returns:
        Whether training reached the end of the plan or of its patience; False if a signal or a callback stopped it.

    Raises InputError if the loss or a weight is no longer finite; nothing is saved then.
    """
    running: deque[tuple[Any, float, int]] = deque()  # steps whose loss is not read: loss, learning rate, tokens

    def read_losses(left: int = 0) -> None:
        """Read the losses of the running steps but for the last `left`, waiting until the device has them."""
        while len(running) > left:
            losses, rate, tokens = running.popleft()
            record(losses, rate, tokens, history, monitor)

    steps = range(len(history.losses), len(history.losses) if is_out_of_patience(plan, history) else plan.steps)
    with stop_on_signal() as stopped, contextlib.closing(prepare_ahead(data, plan, steps)) as batches:
        callbacks.begin_training()
        if validation and not history.validation:
            validate(trainer, validation, plan, history, monitor)
        if best.kept is None:  # the file of the best weights is lost, or an earlier version wrote none
            keep_if_best(trainer, history, best)
        for step, batch in zip(steps, batches, strict=True):
            rate, done = schedule(step), step + 1
            callbacks.begin_step(step)
            running.append((trainer.step(batch, rate, plan.seed, step), rate, batch.size))
            read_losses(callbacks.steps_ahead)
            callbacks.end_step(step)
            is_last, is_stopped = done == plan.steps or callbacks.is_stopping, stopped.is_set()
            validates = validation and (is_due(done, plan.validate_every) or is_last)
            samples, saves = is_due(done, plan.sample_every), is_due(done, plan.save_every)
            if is_last or is_stopped or validates or samples or saves:
                read_losses()
            if validation and validates:
                validate(trainer, validation, plan, history, monitor)
                keep_if_best(trainer, history, best)
            is_last = is_last or is_out_of_patience(plan, history)
            if is_due(done, plan.epoch) or is_last:
                callbacks.end_epoch()
            if samples:
                monitor.sampled(done, sample())
            if is_last or is_stopped or callbacks.is_stopping:
                break
            if saves:
                check_finite(trainer, done)
                save()
                monitor.restart_clock()
        monitor.end()
        if not stopped.is_set():
            callbacks.end_training()
        check_finite(trainer, len(history.losses))
        save()  # even if no step was left: an earlier process may have ended between saving the state and the model
    return len(history.losses) >= plan.steps or is_out_of_patience(plan, history)


def is_out_of_patience(plan: TrainingPlan, history: History) -> bool:
    """Whether the last validations, as many as the plan's patience, brought no lower loss.

    The history alone says so: a resumed run counts on.
    """
    return 0 < plan.patience <= count_without_improvement(history.validation)


def keep_if_best(trainer: Trainer, history: History, best: BestWeights) -> None:
    """Write the weights as the best ones if the last validation is of them and beats that of the best so far."""
    done = len(history.losses)
    if history.validation and history.validation[-1][0] == done and best.is_beaten_by(history.validation[-1]):
        check_finite(trainer, done)
        best.write(history.validation[-1])


def record(losses: Any, rate: float, tokens: int, history: History, monitor: Monitor) -> None:
    """Append a step's loss to the history, and show it. Raises InputError if it is not finite.

    losses: what a trainer's `step` returned.
    """
    done = len(history.losses) + 1
    loss, *others = np.ravel(losses).tolist()
    if not math.isfinite(loss):
        raise diverged(f"step {done}: the loss is {loss}")
    history.losses.append(loss)
    monitor.step(done, loss, rate, tokens, name_figures(others))


def name_figures(others: list[float]) -> dict[str, float]:
    """What a step or a validation measured besides the loss, by name: of pairs the margin and the accuracy."""
    return dict(zip(FIGURES[1:], others, strict=False))


def prepare_ahead(data: Batches, plan: TrainingPlan, steps: Iterable[int]) -> Generator[Batch, None, None]:
    """Yield the batches of steps; a thread prepares the next ones while a step runs."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Batch]] = deque()
        for step in steps:
            waiting.append(thread.submit(data.batch, plan.seed, step, plan.batch_size))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def validate(trainer: Trainer, validation: Batches, plan: TrainingPlan, history: History, monitor: Monitor) -> None:
    """Append the mean loss on the held-out windows to the history, and show it."""
    batches = list(validation.windows(plan.batch_size, VALIDATION_WINDOWS))
    losses = [np.ravel(trainer.loss(batch)) for batch in batches]
    loss, *others = np.average(losses, axis=0, weights=[batch.total for batch in batches]).tolist()
    history.validation.append((len(history.losses), loss))
    monitor.validated(len(history.losses), loss, name_figures(others))


def is_due(done: int, every: int) -> bool:
    return bool(every) and done % every == 0


def check_finite(trainer: Trainer, done: int) -> None:
    """Raise InputError if a weight is not finite: the loss before an update can be finite when its result is not."""
    for name, variable in trainer.trained.items():
        if not np.isfinite(np.asarray(variable)).all():
            raise diverged(f"step {done}: {name} is not finite after the update")


def diverged(symptom: str) -> InputError:
    return InputError(f"{symptom}: training has diverged; the last save is kept: lower `lr` and start again")


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGINT, SIGTERM or SIGHUP sets; a second signal interrupts at once.

    SIGHUP, which a terminal sends when it is closed, stays ignored under `nohup`.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
