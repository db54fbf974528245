"""What a person sees of a training run: a progress line, TensorBoard's logs, samples."""

import time
from collections import deque
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from tensorboard.summary import Writer

from gpt_tf2.commands.progress import Display, clock

WINDOW = 20  # steps that tokens/s is averaged over


class Monitor(Display):
    """Shows steps as they are done.

    Args:
        steps: in all; done: those of an earlier run.
        logs: the folder of TensorBoard's event files.
        shown: False writes and prints nothing, in all but one of several processes.
    """

    def __init__(self, steps: int, done: int, logs: Path, shown: bool = True):
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.description}"))
        super().__init__(*columns, label="starting", total=steps, done=done, quiet_until=0.0, shown=shown)
        self.steps = steps
        self.writer = Writer(str(logs)) if shown else None
        self.times: deque[float] = deque(maxlen=WINDOW + 1)
        self.tokens: deque[int] = deque(maxlen=WINDOW)
        self.validation_loss = ""

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self.writer:
            self.writer.close()

    def step(self, done: int, loss: float, learning_rate: float, tokens: int) -> None:
        """One more training step is done, on so many tokens."""
        self.times.append(time.monotonic())
        self.tokens.append(tokens)
        self._log("loss/training", loss, done)
        self._log("learning_rate", learning_rate, done)
        description = f"loss {loss:.3f}{self.validation_loss}"
        if len(self.times) > 1:  # the first step, or the first after something else, tells no speed
            steps, seconds = len(self.times) - 1, self.times[-1] - self.times[0]
            rate, speed = steps / seconds, sum(list(self.tokens)[-steps:]) / seconds
            self._log("tokens_per_second", speed, done)
            description += f" · {speed:,.0f} tokens/s · {clock((self.steps - done) / rate)} left"
        line = f"step {done}/{self.steps} · {description}"
        self.update(done, self.steps, description, line, last=done == self.steps)

    def validated(self, done: int, loss: float) -> None:
        """A validation after `done` steps."""
        self._log("loss/validation", loss, done)
        self.validation_loss = f" · validation {loss:.3f}"
        self.say(f"validation loss after {done} steps: {loss:.4f}")
        self.restart_clock()

    def _log(self, name: str, value: float, done: int) -> None:
        if self.writer:
            self.writer.add_scalar(name, value, done)

    def restart_clock(self) -> None:
        """Leaves what was done between two steps out of tokens/s."""
        self.times.clear()
