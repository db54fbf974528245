"""Weights & Biases."""

import html
import os
from collections.abc import Mapping

import wandb

from gpt_tf2.training.loggers.logger import PROJECT, LoggedRun


class WandbRun:
    """A run of Weights & Biases; see `Logger`. It follows `WANDB_MODE`, `WANDB_PROJECT` and wandb's others.

    A resumed run continues under its id. wandb drops the steps that it has already.
    """

    name = "wandb"

    def __init__(self, run: LoggedRun):
        kept = run.read_id(self.name)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            config=dict(run.settings),
            id=kept,
            resume="allow" if kept else None,
            reinit="create_new",  # beside a run that the program may have begun
            settings=wandb.Settings(console="off"),  # a bar that is redrawn would fill the log
        )
        run.write_id(self.name, self.run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def log_text(self, name: str, text: str, step: int) -> None:
        self.run.log({name: wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def close(self, is_complete: bool) -> None:
        self.run.finish(exit_code=0 if is_complete else 1)
