"""The settings of `watch`."""

import dataclasses
from pathlib import Path

from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.server_settings import ServerSettings
from gpt_tf2.errors import InputError

OUTPUT = Path("output")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchSettings(ServerSettings):
    """The settings of `watch`.

    Raises InputError for a value that is out of range, or that contradicts another.
    """

    output: tuple[str, ...] = flag(
        (str(OUTPUT),),
        "the output of a fine-tuning, as in finetune --output, or a folder that holds several; or several of these",
        group="output",
        metavar="OUTPUT",
        many=True,
    )
    port: int = flag(8001, "port to listen on, 0: any free one", group="server", kind=int, at_least=0, at_most=65535)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.output:
            raise InputError("give the output of a fine-tuning", "output")
