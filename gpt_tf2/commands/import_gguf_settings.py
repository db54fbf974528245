"""The settings of `import`."""

import dataclasses

from gpt_tf2.commands.flags import check_ranges, flag


@dataclasses.dataclass(frozen=True)
class ImportSettings:
    """The settings of `import`.

    Raises InputError for a value of a wrong kind.
    """

    file: str = flag(dataclasses.MISSING, "a .gguf file of a GPT-2: float32, float16 or q8_0")
    output: str | None = flag(
        None, "the path of the checkpoint to write, .h5, .safetensors or .ckpt (output/NAME.h5)", metavar="PATH"
    )

    def __post_init__(self) -> None:
        check_ranges(self)
