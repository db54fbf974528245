"""Presets: what `GPT2.from_preset` builds a network from."""

import os
from pathlib import Path

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.opened import open_weights
from gpt_tf2.commands.find_model import find_model_path
from gpt_tf2.config import GPT2Config


def open_preset(preset: str | Path) -> tuple[GPT2Config, Checkpoint]:
    """The hyper-parameters and the opened checkpoint of a preset, checked against each other.

    preset: what `find_model_path` finds.

    Raises InputError if there is no such model, or if a file is damaged.
    """
    return open_weights(find_model_path(os.fspath(preset)))
