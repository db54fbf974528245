"""What a person sees of long work that counts: a bar on a terminal, else a line now and then."""

import contextlib
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

LINE_EVERY = 10.0  # seconds between lines where there is no terminal to draw a bar on


class Counter(contextlib.AbstractContextManager):
    """Shows how many are done, how many a second, and the time left.

    Args:
        label: what is done, as `preparing train`.
        unit: what is counted, as `examples`.
    """

    def __init__(self, label: str, unit: str):
        self.console = Console(soft_wrap=True, highlight=False)
        self.label, self.unit = label, unit
        self.began: tuple[float, int] | None = None  # when, and how many were done by then
        self.last_line = time.monotonic()
        self.progress = Progress(TextColumn("{task.description}"), BarColumn(bar_width=20), console=self.console)
        self.task = self.progress.add_task(label, total=None)

    def __enter__(self) -> "Counter":
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.progress.stop()

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
        if self.console.is_terminal:
            self.progress.update(self.task, completed=done, total=total, description=escape(description))
        elif now - self.last_line >= LINE_EVERY:
            self.last_line = now
            self.say(description)

    def say(self, text: str) -> None:
        """Prints above the bar."""
        self.console.print(escape(text))


def clock(seconds: float) -> str:
    """As `1:02:03` or `02:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"
