"""`merge`: a model and its LoRA adapters to one checkpoint."""

import dataclasses
from pathlib import Path

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.adapters import read_base_paths
from gpt_tf2.checkpoints.formats import check_format
from gpt_tf2.checkpoints.opened import open_model, save_model
from gpt_tf2.commands.find_model import find_on_machine
from gpt_tf2.commands.flags import flag
from gpt_tf2.errors import InputError


@dataclasses.dataclass(frozen=True)
class MergeSettings:
    """The settings of `merge`."""

    adapters: str = flag(dataclasses.MISSING, "the adapters, a .h5 file written by finetune --lora_rank")
    output: str = flag(dataclasses.MISSING, "the checkpoint to write: NAME.h5, .safetensors or .ckpt")


def merge(settings: MergeSettings) -> Path:
    """Writes the merged checkpoint with the vocabulary beside it, and returns its path.

    Raises InputError if the first file holds no adapters, or if the second cannot be written.
    """
    path, output = find_on_machine(settings.adapters) or Path(settings.adapters), Path(settings.output)
    check_format(output)
    if path.is_file() and not read_base_paths(path):
        raise InputError(f"{path}: holds no adapters: give a file written by finetune with `lora_rank`")
    model = open_model(path)
    start_backend()
    save_model(model.load(), output, model.tokenizer)
    return output


def print_merge(settings: MergeSettings) -> None:
    """Merges, and prints the path of the checkpoint."""
    print(merge(settings))
