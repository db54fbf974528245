"""The settings of `merge`."""

import dataclasses

from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import BASE, OFFLINE


@dataclasses.dataclass(frozen=True)
class MergeSettings:
    """The settings of `merge`."""

    adapters: str = flag(dataclasses.MISSING, "the adapters: a .h5 file of finetune --lora_rank, or peft's folder")
    output: str = flag(dataclasses.MISSING, "the path of the checkpoint to write: .h5, .safetensors or .ckpt")
    base: str | None = flag(None, **BASE, metavar="MODEL")
    offline: bool = flag(False, **OFFLINE)
