"""`history.jsonl`: the figures and samples of a run, a line each, for `gpt-tf2 watch` and for your own programs.

A process of the run begins with a line that has `run`, its name, `steps` and `settings`, and ends with one that has
`end`, "complete" or "failed". Between them each line has the `step` after which it was written, its `time` in seconds
since 1970, and figures by the names that loggers give them, or a `sample`.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_tf2.storage.files import atomic_write
from gpt_tf2.training.loggers.logger import LoggedRun

HISTORY = "history.jsonl"  # in the run's folder


class HistoryFile:
    """A file of JSON lines; see `Logger`. A line is written when its function returns, so a killed run loses none.

    A resumed run goes on in the file of the run so far, but for the steps that it repeats.

    Args:
        path: of the file.
        steps: of the whole run.

    Its functions raise OSError if the file cannot be written, or InputError if it cannot be replaced.
    """

    def __init__(self, run: LoggedRun, path: Path, steps: int):
        self.name = str(path)
        kept = "".join(keep_lines(path, run.done)) if run.is_resumed else ""
        with atomic_write(path) as temporary:
            temporary.write_text(kept, encoding="utf-8")
        self.done = run.done
        self.file = path.open("a", encoding="utf-8")
        settings = {name: write_setting(value) for name, value in run.settings.items()}
        self._write({"run": run.name, "steps": steps, "settings": settings}, run.done)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._write({name: round_figure(value) for name, value in values.items()}, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        self._write({name: text}, step)

    def close(self, is_complete: bool) -> None:
        with self.file:
            self._write({"end": "complete" if is_complete else "failed"}, self.done)

    def _write(self, values: Mapping[str, Any], step: int) -> None:
        self.done = step
        self.file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}, default=str) + "\n")
        self.file.flush()


def round_figure(value: float) -> float | None:
    """A figure to six digits. None, which JSON has, if it is not finite.

    Example:
        >>> round_figure(2.123456789), round_figure(float("inf"))
        (2.12346, None)
    """
    return float(f"{value:.6g}") if math.isfinite(value) else None


def write_setting(value: object) -> object:
    """A setting as JSON can have it: as text if it is infinite.

    Example:
        >>> write_setting(float("inf")), write_setting(0.5), write_setting("a.txt")
        ('inf', 0.5, 'a.txt')
    """
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def keep_lines(path: Path, done: int) -> Iterator[str]:
    """The lines of a history up to a step, as far as they are whole; none if there is no file."""
    content = path.read_bytes() if path.is_file() else b""
    for line in content.decode(errors="replace").split("\n"):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # a kill has cut it off, or it is damaged
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int) and values["step"] <= done:
            yield f"{line}\n"
