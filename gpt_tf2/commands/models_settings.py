"""The settings of `models`."""

import dataclasses

from gpt_tf2.commands.flags import flag


@dataclasses.dataclass(frozen=True)
class ModelsSettings:
    """The settings of `models`."""

    json: bool = flag(False, "print JSON instead of a table", kind=bool)
