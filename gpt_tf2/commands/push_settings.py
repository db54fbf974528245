"""The settings of `push`."""

import dataclasses
import re

from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.commands.model_settings import BASE, MODEL, OFFLINE
from gpt_tf2.errors import InputError


@dataclasses.dataclass(frozen=True)
class PushSettings:
    """The settings of `push`.

    Raises InputError for a value that is out of range.
    """

    model: str = flag(dataclasses.MISSING, MODEL)
    repository: str = flag(dataclasses.MISSING, "where to put it: owner/name", metavar="OWNER/NAME")
    public: bool = flag(False, "let everyone read a new repository, not you alone", kind=bool)
    license: str | None = flag(None, "the license that the card names, such as mit (none)", metavar="NAME")
    token: str | None = flag(None, "a token that may write (HF_TOKEN, or that of hf auth login)", metavar="TOKEN")
    base: str | None = flag(None, **BASE, metavar="MODEL")
    offline: bool = flag(False, **OFFLINE)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", self.repository):
            raise InputError("use owner/name", "repository", self.repository)
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise InputError("use a short name, such as mit or apache-2.0", "license", self.license)
