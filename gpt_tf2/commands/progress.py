"""Progress that a person watches: a bar on a terminal, elsewhere a line now and then."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

Shown = TypeVar("Shown", bound="Display")
SECONDS_BETWEEN_LINES = 10.0  # where there is no terminal to draw a bar on


def print_to_stderr(line: str) -> None:
    """Prints a line that is not part of the result."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def hide_output() -> Iterator[None]:
    """Drops what Python, in all its threads, prints to stdout and stderr within the context."""
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


class PlainConsole(Console):
    """A console that raises BrokenPipeError, where rich would end the process."""

    def on_broken_pipe(self) -> NoReturn:
        """Called while the error is handled."""
        raise


class Display(contextlib.AbstractContextManager):
    """A bar with a description on a terminal, lines elsewhere. The bar appears with the first update.

    Args:
        columns: the bar's columns.
        silent_until: the time of the first line where there is no bar, in seconds of `time.monotonic`.
        shown: False prints nothing.
        stderr: prints to stderr instead of stdout.
    """

    def __init__(
        self,
        *columns: ProgressColumn,
        label: str,
        total: int | None,
        done: int,
        silent_until: float,
        shown: bool = True,
        stderr: bool = False,
    ):
        # Without force_jupyter=False a notebook would show each line as HTML of its own.
        self.console = PlainConsole(
            soft_wrap=True, highlight=False, force_jupyter=False, quiet=not shown, stderr=stderr
        )
        self.silent_until = silent_until
        self.printed = ""
        self.progress = Progress(*columns, console=self.console)
        self.task = self.progress.add_task(label, total=total, completed=done)

    def __enter__(self: Shown) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:  # elsewhere rich prints an empty line
            self.progress.stop()

    def update(self, done: int, total: int | None, description: str, line: str, last: bool = False) -> None:
        """Draws the bar with its description. Elsewhere prints the line if it is the last, or the first for a while."""
        now = time.monotonic()
        if self.console.is_terminal:
            self.progress.start()
            self.progress.update(self.task, completed=done, total=total, description=escape(description))
        elif now >= self.silent_until or (last and line != self.printed):
            self.silent_until, self.printed = now + SECONDS_BETWEEN_LINES, line
            self.say(line)

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        self.console.print(escape(text))


class TrainingDisplay(Display):
    """Shows training steps. If stdout can no longer be written, training goes on.

    Args:
        steps: how many there are in all.
        done: how many an earlier process did.
        shown: False prints nothing, in all but one of several processes.
    """

    def __init__(self, steps: int, done: int, shown: bool = True):
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.description}"))
        super().__init__(*columns, label="starting", total=steps, done=done, silent_until=0.0, shown=shown)

    def update(self, done: int, total: int | None, description: str, line: str, last: bool = False) -> None:
        """Shows progress; see `Display.update`."""
        with self._end_on_error():
            super().update(done, total, description, line, last)

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        with self._end_on_error():
            super().say(text)

    @contextlib.contextmanager
    def _end_on_error(self) -> Iterator[None]:
        """Shows nothing more once stdout cannot be written: the disk is full, its reader or the terminal is gone."""
        try:
            yield
        except OSError as error:
            self.console.quiet = True
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered would fail at exit
            with contextlib.suppress(OSError):
                print_to_stderr(f"stdout cannot be written ({error.strerror}): training goes on")


class Counter(Display):
    """Shows how much is done, the speed, and the time left.

    Args:
        label: the work, as `preparing train`.
        unit: what is counted, as `examples`.
        shown: False prints nothing, in all but one of several processes.
    """

    def __init__(self, label: str, unit: str, stderr: bool = False, shown: bool = True):
        columns = TextColumn("{task.description}"), BarColumn(bar_width=20)
        silent_until = time.monotonic() + SECONDS_BETWEEN_LINES
        super().__init__(
            *columns, label=label, total=None, done=0, silent_until=silent_until, shown=shown, stderr=stderr
        )
        self.label, self.unit = label, unit
        self.began: tuple[float, int] | None = None  # the time, and how much was done by then

    def show(self, done: int, total: int | None) -> None:
        """Shows that `done` are done, of `total` if that is known."""
        now = time.monotonic()
        if self.began is None:  # the speed counts from here: what an earlier process did is in `done`
            self.began = now, done
        description = f"{self.label}: {done:,} {self.unit}" if total is None else f"{self.label}: {done:,}/{total:,}"
        if now > self.began[0]:
            rate = (done - self.began[1]) / (now - self.began[0])
            description += f" · {rate:,.3g} {self.unit}/s" if rate < 100 else f" · {rate:,.0f} {self.unit}/s"
            if total is not None and rate:
                description += f" · {format_clock((total - done) / rate)} left"
        self.update(done, total, description, description)


def format_clock(seconds: float) -> str:
    """A duration as `1:02:03` or `02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"
