"""The settings of `compare`."""

import dataclasses

from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.commands.model_settings import MODEL, OFFLINE

PAGE = "a page of Python's language reference"


@dataclasses.dataclass(frozen=True)
class CompareSettings:
    """The settings of `compare`.

    Raises InputError for a value of a wrong kind.
    """

    model: str = flag(dataclasses.MISSING, f"A: {MODEL}")
    other: str = flag(dataclasses.MISSING, "B: another model with the same tokens, in any of these forms")
    data: str | None = flag(None, f"the text: a file, a folder or a glob ({PAGE})", metavar="PATH")
    offline: bool = flag(False, **OFFLINE)
    json: bool = flag(False, "print JSON instead of lines", kind=bool)

    def __post_init__(self) -> None:
        check_ranges(self)
