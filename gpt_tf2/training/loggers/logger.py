"""The interface of a logger, and what it is told of a run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gpt_tf2.storage.files import write_text

PROJECT = "gpt-tf2"  # of a tracker that sorts runs into projects, unless its own environment variable names another


@dataclasses.dataclass(frozen=True)
class LoggedRun:
    """A run to log.

    name: of the model that it writes.
    settings: by name, as run.toml has them.
    folder: for TensorBoard's files, and for the ids by which trackers know the run; None if nothing may be written.
    is_resumed: whether it continues a run, whose logs it shall continue.
    done: the steps of that run.
    """

    name: str
    settings: Mapping[str, object]
    folder: Path | None = None
    is_resumed: bool = False
    done: int = 0

    def read_id(self, tracker: str) -> str | None:
        """The id by which a tracker knows the run that is resumed, if that was logged there."""
        path = self.folder / f"{tracker}.id" if self.folder and self.is_resumed else None
        return path.read_text().strip() if path and path.is_file() else None

    def write_id(self, tracker: str, id: str) -> None:
        """Keeps the id by which a tracker knows this run."""
        if self.folder:
            write_text(self.folder / f"{tracker}.id", f"{id}\n")


class Logger(Protocol):
    """Keeps what it is given. Each function may raise any error of the library behind it.

    name: to show.
    """

    name: str

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep the figures after a number of steps."""

    def log_text(self, name: str, text: str, step: int) -> None:
        """Keep a text."""

    def close(self, is_complete: bool) -> None:
        """End the run, with whether it ended as it should."""


def as_it_stands(text: str) -> str:
    """A text as Markdown that changes nothing in it."""
    return "".join(f"    {line}\n" for line in text.split("\n"))
