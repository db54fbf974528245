"""`merge`: base and adapters → a plain checkpoint."""

import dataclasses
from pathlib import Path

from gpt_tf2.backend.starting import start
from gpt_tf2.checkpoints.formats import check_format
from gpt_tf2.checkpoints.opened import open_model, save_model
from gpt_tf2.checkpoints.adapters import base_of
from gpt_tf2.commands.flags import flag
from gpt_tf2.errors import InputError


@dataclasses.dataclass(frozen=True)
class MergeSettings:
    """The flags of `merge`."""

    adapters: str = flag(dataclasses.MISSING, "the adapters that finetune --lora_rank wrote, a .h5 file")
    output: str = flag(dataclasses.MISSING, "the checkpoint to write: NAME.h5, .safetensors or .ckpt")


def merge(settings: MergeSettings) -> Path:
    """Writes the checkpoint with the vocabulary beside it and returns its path.

    Raises InputError if the first file holds no adapters, or the second cannot be written.
    """
    path, output = Path(settings.adapters), Path(settings.output)
    check_format(output)
    if path.is_file() and base_of(path) is None:
        raise InputError(f"{path}: no adapters in it: give what finetune --lora_rank wrote")
    model = open_model(path)
    start()
    save_model(model.load(), output, model.tokenizer)
    return output
