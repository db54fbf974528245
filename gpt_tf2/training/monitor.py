"""What a person sees of a training run: progress, speed, and logs."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol

from gpt_tf2.backend.memory import measure_peak_memory
from gpt_tf2.errors import InputError, to_line
from gpt_tf2.training.loggers.history_file import HistoryFile
from gpt_tf2.training.loggers.logger import LoggedRun, Logger
from gpt_tf2.training.loggers.opening import open_tracker
from gpt_tf2.training.loggers.tensorboard_files import TensorBoardFiles

AVERAGED_STEPS = 20  # steps that tokens/s is averaged over
NOTHING: Mapping[str, float] = MappingProxyType({})


class Display(Protocol):
    """Shows progress: a bar on a terminal, elsewhere a line now and then."""

    def update(self, done: int, total: int | None, description: str, line: str, last: bool = False) -> None:
        """Show that `done` of `total` are done: the description beside a bar, or the line where there is no bar."""

    def say(self, text: str) -> None:
        """Print a line."""


class Monitor(contextlib.AbstractContextManager):
    """Reports steps, validations and samples to a display and to logs. If a log cannot be written, training goes on.

    Args:
        steps: in all, those of an earlier process included.
        display: shows progress.
    """

    def __init__(self, steps: int, display: Display):
        self.steps = steps
        self.display = display
        self.logs: list[Logger] = []
        self.times: deque[float] = deque(maxlen=AVERAGED_STEPS + 1)  # in seconds, when steps were done
        self.tokens: deque[int] = deque(maxlen=AVERAGED_STEPS)
        self.done = 0
        self.loss = self.validation_loss = self.speed = ""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._with_logs(lambda log: log.close(error is None))

    def open_logs(self, names: Iterable[str], run: LoggedRun) -> None:
        """Begin to log a run, by the loggers of these names. Raises InputError if a tracker refuses."""
        for name in names:
            if name != "tensorboard":
                self.logs.append(open_tracker(name, run))
            elif run.folder:
                try:
                    self.logs.append(TensorBoardFiles(run, run.folder))
                except OSError as error:
                    self._say_lost(str(run.folder), error)

    def keep_history(self, path: Path, run: LoggedRun) -> None:
        """Begin to write the run's `history.jsonl`, or go on with it if the run is resumed."""
        try:
            self.logs.append(HistoryFile(run, path, self.steps))
        except InputError as error:
            self.say(to_line(f"{error}: training goes on without it"))
        except OSError as error:
            self._say_lost(str(path), error)

    def step(
        self, done: int, loss: float, learning_rate: float, tokens: int, others: Mapping[str, float] = NOTHING
    ) -> None:
        """Report a training step.

        Args:
            done: steps done so far.
            loss: the mean loss, in nats.
            tokens: in the step's batch.
            others: what is measured besides, by name.
        """
        self.times.append(time.monotonic())
        self.tokens.append(tokens)
        figures = {f"{name}/training": value for name, value in {"loss": loss, **others}.items()}
        figures["learning_rate"] = learning_rate
        if memory := measure_peak_memory():
            figures["peak_memory_gb"] = memory / 1e9
        self.done, self.loss, self.speed = done, f"loss {loss:.3f}{format_figures(others)}", ""
        if len(self.times) > 1:  # the first step after a start or a break has no beginning to measure from
            steps, seconds = len(self.times) - 1, self.times[-1] - self.times[0]
            speed = sum(list(self.tokens)[-steps:]) / seconds  # tokens/s
            figures["tokens_per_second"] = speed
            left = timedelta(seconds=round((self.steps - done) * seconds / steps))
            self.speed = f" · {speed:,.0f} tokens/s · {str(left).removeprefix('0:')} left"
        self._with_logs(lambda log: log.log(figures, done))
        if done < self.steps:
            self._show()

    def end(self) -> None:
        """Show the last step, now with the validation after it."""
        if self.done:
            self._show(last=True)

    def validated(self, done: int, loss: float, others: Mapping[str, float] = NOTHING) -> None:
        """Report the mean loss of a validation after `done` steps, in nats, and what else it measured, by name."""
        figures = {f"{name}/validation": value for name, value in {"loss": loss, **others}.items()}
        self._with_logs(lambda log: log.log(figures, done))
        self.validation_loss = f" · validation {loss:.3f}"
        self.say(f"validation loss after {done} steps: {loss:.4f}{format_figures(others)}")
        self.restart_clock()

    def sampled(self, done: int, text: str) -> None:
        """Report a text that the model has written after `done` steps."""
        self._with_logs(lambda log: log.log_text("sample", text, done))
        self.say(f"sample: {text}")
        self.restart_clock()

    def say(self, text: str) -> None:
        """Print a line."""
        self.display.say(text)

    def restart_clock(self) -> None:
        """Keep the time spent since the last step out of tokens/s."""
        self.times.clear()

    def _show(self, last: bool = False) -> None:
        description = self.loss + self.validation_loss + self.speed
        self.display.update(self.done, self.steps, description, f"step {self.done}/{self.steps} · {description}", last)

    def _with_logs(self, act: Callable[[Logger], None]) -> None:
        """Do something with each log. One that fails is dropped, with a line."""
        for log in list(self.logs):
            try:
                act(log)
            except Exception as error:  # of the disk, or whatever a tracker runs into
                self.logs.remove(log)
                with contextlib.suppress(Exception):  # what is buffered still cannot be written
                    log.close(False)
                self._say_lost(log.name, error)

    def _say_lost(self, name: str, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        self.say(to_line(f"{name}: cannot be written ({reason}): training goes on without these logs"))


def format_figures(others: Mapping[str, float]) -> str:
    """What is measured besides the loss, for people.

    Example:
        >>> format_figures({"reward_margin": 0.25, "accuracy": 0.5})
        ' · reward margin 0.250 · accuracy 0.500'
    """
    return "".join(f" · {name.replace('_', ' ')} {value:.3f}" for name, value in others.items())
