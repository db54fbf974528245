"""The settings of `download`."""

import dataclasses

from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.config import SIZES


@dataclasses.dataclass(frozen=True)
class DownloadSettings:
    """The settings of `download`. Raises InputError for an unknown size."""

    size: str = flag(dataclasses.MISSING, "the model, by its number of parameters", choices=tuple(SIZES))
    folder: str | None = flag(
        None, "where to put it, in FOLDER/SIZE: models is searched too (the cache folder)", metavar="FOLDER"
    )
    base_url: str | None = flag(
        None, "URL of the folder that holds all sizes ($GPT_TF2_BASE_URL, or OpenAI's)", metavar="URL"
    )

    def __post_init__(self) -> None:
        check_ranges(self)
