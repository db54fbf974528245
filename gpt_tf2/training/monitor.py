"""What a person sees of a training run: progress, speed, and TensorBoard's logs."""

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

AVERAGED_STEPS = 20  # steps that tokens/s is averaged over
SECONDS_BETWEEN_FLUSHES = 30.0
NOTHING: Mapping[str, float] = MappingProxyType({})


class Display(Protocol):
    """Shows progress: a bar on a terminal, elsewhere a line now and then."""

    def update(self, done: int, total: int | None, description: str, line: str, last: bool = False) -> None:
        """Show that `done` of `total` are done: the description beside a bar, or the line where there is no bar."""

    def say(self, text: str) -> None:
        """Print a line."""


class EventLog:
    """A file of TensorBoard's events.

    TensorBoard's own writer writes in a thread, whose errors, of a full disk, nobody can catch.

    Args:
        folder: created if it is missing.

    Its functions raise OSError if the file cannot be written.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self.file = (folder / name).open("xb")
        self.records = RecordWriter(self.file)
        self.flushed = time.monotonic()
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.file.flush()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Append a value; it is on disk after half a minute at the latest."""
        self._write(Event(wall_time=time.time(), step=step, summary=scalar_pb(name, value)))
        if time.monotonic() > self.flushed + SECONDS_BETWEEN_FLUSHES:
            self.file.flush()
            self.flushed = time.monotonic()

    def close(self) -> None:
        self.file.close()

    def _write(self, event: Event) -> None:
        self.records.write(event.SerializeToString())


class Monitor(contextlib.AbstractContextManager):
    """Reports steps and validations to a display and to TensorBoard. If a log cannot be written, training goes on.

    Args:
        steps: in all, those of an earlier process included.
        logs: the folder of TensorBoard's event files.
        display: shows progress.
        shown: whether TensorBoard's files are written: by one of several processes.
    """

    def __init__(self, steps: int, logs: Path, display: Display, shown: bool = True):
        self.steps = steps
        self.display = display
        self.logs = logs
        self.log: EventLog | None = None
        self.times: deque[float] = deque(maxlen=AVERAGED_STEPS + 1)  # in seconds, when steps were done
        self.tokens: deque[int] = deque(maxlen=AVERAGED_STEPS)
        self.done = 0
        self.loss = self.validation_loss = self.speed = ""
        if shown:
            with self._stop_on_error():
                self.log = EventLog(logs)

    def __exit__(self, *_: object) -> None:
        with self._stop_on_error():
            if self.log:
                self.log.close()

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
        for name, value in {"loss": loss, **others}.items():
            self._log(f"{name}/training", value, done)
        self._log("learning_rate", learning_rate, done)
        self.done, self.loss, self.speed = done, f"loss {loss:.3f}{format_figures(others)}", ""
        if len(self.times) > 1:  # the first step after a start or a break has no beginning to measure from
            steps, seconds = len(self.times) - 1, self.times[-1] - self.times[0]
            speed = sum(list(self.tokens)[-steps:]) / seconds  # tokens/s
            self._log("tokens_per_second", speed, done)
            left = timedelta(seconds=round((self.steps - done) * seconds / steps))
            self.speed = f" · {speed:,.0f} tokens/s · {str(left).removeprefix('0:')} left"
        if done < self.steps:
            self._show()

    def end(self) -> None:
        """Show the last step, now with the validation after it."""
        if self.done:
            self._show(last=True)

    def validated(self, done: int, loss: float, others: Mapping[str, float] = NOTHING) -> None:
        """Report the mean loss of a validation after `done` steps, in nats, and what else it measured, by name."""
        for name, value in {"loss": loss, **others}.items():
            self._log(f"{name}/validation", value, done)
        self.validation_loss = f" · validation {loss:.3f}"
        self.say(f"validation loss after {done} steps: {loss:.4f}{format_figures(others)}")
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

    def _log(self, name: str, value: float, done: int) -> None:
        with self._stop_on_error():
            if self.log:
                self.log.add_scalar(name, value, done)

    @contextlib.contextmanager
    def _stop_on_error(self) -> Iterator[None]:
        """Stop logging, with a line, if it fails."""
        try:
            yield
        except OSError as error:
            log, self.log = self.log, None
            if log:
                with contextlib.suppress(OSError):  # what is buffered still cannot be written
                    log.close()
            self.say(f"{self.logs}: cannot be written ({error.strerror}): training goes on without these logs")


def format_figures(others: Mapping[str, float]) -> str:
    """What is measured besides the loss, for people.

    Example:
        >>> format_figures({"reward_margin": 0.25, "accuracy": 0.5})
        ' · reward margin 0.250 · accuracy 0.500'
    """
    return "".join(f" · {name.replace('_', ' ')} {value:.3f}" for name, value in others.items())
