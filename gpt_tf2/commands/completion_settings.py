"""The settings of `completion`."""

import dataclasses

import shtab

from gpt_tf2.commands.flags import check_ranges, flag


@dataclasses.dataclass(frozen=True)
class CompletionSettings:
    """The settings of `completion`."""

    shell: str = flag(dataclasses.MISSING, "the shell that is to run the script", choices=tuple(shtab.SUPPORTED_SHELLS))

    def __post_init__(self) -> None:
        check_ranges(self)
