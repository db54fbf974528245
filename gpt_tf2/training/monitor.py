"""What a person sees of a training run: progress, speed, and TensorBoard's logs."""

import contextlib
import time
from collections import deque
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from tensorboard.summary import Writer

AVERAGED_STEPS = 20  # steps that tokens/s is averaged over


class Display(Protocol):
    """Shows progress: a bar on a terminal, elsewhere a line now and then."""

    def update(self, done: int, total: int | None, description: str, line: str, last: bool = False) -> None:
        """Show that `done` of `total` are done: the description beside a bar, or the line where there is no bar."""

    def say(self, text: str) -> None:
        """Print a line."""


class Monitor(contextlib.AbstractContextManager):
    """Reports steps and validations to a display and to TensorBoard.

    Args:
        steps: in all, those of an earlier process included.
        logs: the folder of TensorBoard's event files.
        display: shows progress.
        shown: whether TensorBoard's files are written: by one of several processes.
    """

    def __init__(self, steps: int, logs: Path, display: Display, shown: bool = True):
        self.steps = steps
        self.display = display
        self.writer = Writer(str(logs)) if shown else None
        self.times: deque[float] = deque(maxlen=AVERAGED_STEPS + 1)  # in seconds, when steps were done
        self.tokens: deque[int] = deque(maxlen=AVERAGED_STEPS)
        self.validation_loss = ""

    def __exit__(self, *_: object) -> None:
        if self.writer:
            self.writer.close()

    def step(self, done: int, loss: float, learning_rate: float, tokens: int) -> None:
        """Report a training step.

        Args:
            done: steps done so far.
            loss: the mean loss, in nats.
            tokens: in the step's batch.
        """
        self.times.append(time.monotonic())
        self.tokens.append(tokens)
        self._log("loss/training", loss, done)
        self._log("learning_rate", learning_rate, done)
        description = f"loss {loss:.3f}{self.validation_loss}"
        if len(self.times) > 1:  # the first step after a start or a break has no beginning to measure from
            steps, seconds = len(self.times) - 1, self.times[-1] - self.times[0]
            speed = sum(list(self.tokens)[-steps:]) / seconds  # tokens/s
            self._log("tokens_per_second", speed, done)
            left = timedelta(seconds=round((self.steps - done) * seconds / steps))
            description += f" · {speed:,.0f} tokens/s · {str(left).removeprefix('0:')} left"
        line = f"step {done}/{self.steps} · {description}"
        self.display.update(done, self.steps, description, line, last=done == self.steps)

    def validated(self, done: int, loss: float) -> None:
        """Report the mean loss of a validation after `done` steps, in nats."""
        self._log("loss/validation", loss, done)
        self.validation_loss = f" · validation {loss:.3f}"
        self.say(f"validation loss after {done} steps: {loss:.4f}")
        self.restart_clock()

    def say(self, text: str) -> None:
        """Print a line."""
        self.display.say(text)

    def restart_clock(self) -> None:
        """Keep the time spent since the last step out of tokens/s."""
        self.times.clear()

    def _log(self, name: str, value: float, done: int) -> None:
        if self.writer:
            self.writer.add_scalar(name, value, done)
