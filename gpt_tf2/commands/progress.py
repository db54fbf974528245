"""What a person sees of long work that counts: a bar on a terminal, else a line now and then."""

import contextlib
import time
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

Shown = TypeVar("Shown", bound="Display")
LINE_EVERY = 10.0  # seconds between lines where there is no terminal to draw a bar on


class Display(contextlib.AbstractContextManager):
    """A bar with a description on a terminal; elsewhere lines.

    Args:
        columns: of the bar.
        shown: False prints nothing.
        quiet_until: when the first line may be printed where there is no bar, in `time.monotonic`'s seconds.
        stderr: shows it on standard error.
    """

    def __init__(
        self,
        *columns: ProgressColumn,
        label: str,
        total: int | None,
        done: int,
        quiet_until: float,
        shown: bool = True,
        stderr: bool = False,
    ):
        self.console = Console(soft_wrap=True, highlight=False, quiet=not shown, stderr=stderr)
        self.quiet_until = quiet_until
        self.progress = Progress(*columns, console=self.console)
        self.task = self.progress.add_task(label, total=total, completed=done)

    def __enter__(self: Shown) -> Shown:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.progress.stop()

    def update(self, done: int, total: int | None, description: str, line: str, last: bool = False) -> None:
        """Draws the bar with its description; elsewhere prints the line, if it is the last or some time has gone by."""
        now = time.monotonic()
        if self.console.is_terminal:
            self.progress.update(self.task, completed=done, total=total, description=escape(description))
        elif last or now >= self.quiet_until:
            self.quiet_until = now + LINE_EVERY
            self.say(line)

    def say(self, text: str) -> None:
        """Prints above the bar."""
        self.console.print(escape(text))


class TrainingDisplay(Display):
    """Shows training steps.

    Args:
        steps: how many there are in all.
        done: how many an earlier process did.
        shown: False prints nothing, in all but one of several processes.
    """

    def __init__(self, steps: int, done: int, shown: bool = True):
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.description}"))
        super().__init__(*columns, label="starting", total=steps, done=done, quiet_until=0.0, shown=shown)


class Counter(Display):
    """Shows how many are done, how many a second, and the time left.

    Args:
        label: what is done, as `preparing train`.
        unit: what is counted, as `examples`.
    """

    def __init__(self, label: str, unit: str, stderr: bool = False):
        columns = TextColumn("{task.description}"), BarColumn(bar_width=20)
        quiet_until = time.monotonic() + LINE_EVERY
        super().__init__(*columns, label=label, total=None, done=0, quiet_until=quiet_until, stderr=stderr)
        self.label, self.unit = label, unit
        self.began: tuple[float, int] | None = None  # when, and how many were done by then

    def show(self, done: int, total: int | None) -> None:
        """So many are done, of so many if that is known."""
        now = time.monotonic()
        if self.began is None:  # the first tells no speed: what was done before is in it
            self.began = now, done
        description = f"{self.label}: {done:,} {self.unit}" if total is None else f"{self.label}: {done:,}/{total:,}"
        if now > self.began[0]:
            rate = (done - self.began[1]) / (now - self.began[0])
            description += f" · {rate:,.3g} {self.unit}/s" if rate < 100 else f" · {rate:,.0f} {self.unit}/s"
            if total is not None and rate:
                description += f" · {clock((total - done) / rate)} left"
        self.update(done, total, description, description)


def clock(seconds: float) -> str:
    """As `1:02:03` or `02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"
