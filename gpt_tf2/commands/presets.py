"""Presets: what `GPT2.from_preset` builds a network from."""

import os
from pathlib import Path

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.companions import find_companion
from gpt_tf2.checkpoints.formats import locate, open_checkpoint, read_config
from gpt_tf2.checkpoints.opened import choose_config
from gpt_tf2.commands.find_model import find_model_path
from gpt_tf2.config import GPT2Config


def open_preset(preset: str | Path) -> tuple[GPT2Config, Checkpoint]:
    """The hyper-parameters and the opened checkpoint of a preset, checked against each other.

    preset: what `find_model_path` finds.

    Raises InputError if there is no such model, or if a file is damaged.
    """
    path = locate(find_model_path(os.fspath(preset)))
    config = choose_config(path, read_config(path), find_companion(path, "hparams.json"))
    checkpoint = open_checkpoint(path)
    checkpoint.check(config)
    return config, checkpoint
