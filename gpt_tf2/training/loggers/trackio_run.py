"""Trackio."""

import contextlib
import os
import sys
from collections.abc import Mapping

import trackio

from gpt_tf2.training.loggers.logger import PROJECT, LoggedRun, as_it_stands


class TrackioRun:
    """A run of Trackio; see `Logger`. It follows `TRACKIO_DIR`, `TRACKIO_SPACE_ID` and Trackio's others.

    A resumed run continues under its name. What it repeats of its last steps is there twice, with equal values.
    """

    name = "trackio"

    def __init__(self, run: LoggedRun):
        with contextlib.redirect_stdout(sys.stderr):
            self.run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=run.name,
                config=dict(run.settings),
                resume="allow" if run.is_resumed else "never",
                embed=False,
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def log_text(self, name: str, text: str, step: int) -> None:
        self.run.log({name: trackio.Markdown(as_it_stands(text))}, step=step)

    def close(self, is_complete: bool) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            trackio.finish()
