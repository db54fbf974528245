"""What a person sees of a training run: a progress line, TensorBoard's logs, samples."""

import contextlib
import time
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from tensorboard.summary import Writer

from gpt_tf2.progress import LINE_EVERY, clock

WINDOW = 20  # steps that tokens/s is averaged over


class Monitor(contextlib.AbstractContextManager):
    """Shows steps as they are done.

    Args:
        steps: in all; done: those of an earlier run.
        logs: the folder of TensorBoard's event files.
    """

    def __init__(self, steps: int, done: int, logs: Path):
        self.console = Console(soft_wrap=True, highlight=False)
        self.steps = steps
        self.writer = Writer(str(logs))
        self.times: deque[float] = deque(maxlen=WINDOW + 1)
        self.tokens: deque[int] = deque(maxlen=WINDOW)
        self.last_line = float("-inf")
        self.validation_loss = ""
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.description}"))
        self.progress = Progress(*columns, console=self.console)
        self.task = self.progress.add_task("starting", total=steps, completed=done)

    def __enter__(self) -> "Monitor":
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.progress.stop()
        self.writer.close()

    def step(self, done: int, loss: float, learning_rate: float, tokens: int) -> None:
        """One more training step is done, on so many tokens."""
        self.times.append(time.monotonic())
        self.tokens.append(tokens)
        self.writer.add_scalar("loss/training", loss, done)
        self.writer.add_scalar("learning_rate", learning_rate, done)
        description = f"loss {loss:.3f}{self.validation_loss}"
        if len(self.times) > 1:  # the first step, or the first after something else, tells no speed
            steps, seconds = len(self.times) - 1, self.times[-1] - self.times[0]
            rate, speed = steps / seconds, sum(list(self.tokens)[-steps:]) / seconds
            self.writer.add_scalar("tokens_per_second", speed, done)
            description += f" · {speed:,.0f} tokens/s · {clock((self.steps - done) / rate)} left"
        if self.console.is_terminal:
            self.progress.update(self.task, completed=done, description=description)
        elif self.times[-1] - self.last_line >= LINE_EVERY or done == self.steps:
            self.last_line = self.times[-1]
            self.show(f"step {done}/{self.steps} · {description}")

    def validated(self, done: int, loss: float) -> None:
        """A validation after `done` steps."""
        self.writer.add_scalar("loss/validation", loss, done)
        self.validation_loss = f" · validation {loss:.3f}"
        self.show(f"validation loss after {done} steps: {loss:.4f}")
        self.restart_clock()

    def show(self, text: str) -> None:
        """Prints above the progress line."""
        self.console.print(escape(text))

    def restart_clock(self) -> None:
        """Leaves what was done between two steps out of tokens/s."""
        self.times.clear()
