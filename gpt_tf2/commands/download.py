"""`download`: one of OpenAI's models into `models/SIZE/`."""

import dataclasses
import functools
import os
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gpt_tf2.checkpoints.download import BASE_URL, FILES, download_file
from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.config import SIZES
from gpt_tf2.storage.files import check_writable

BASE_URL_VARIABLE = "GPT_TF2_BASE_URL"


@dataclasses.dataclass(frozen=True)
class DownloadSettings:
    """The settings of `download_model.py`. Raises InputError for an unknown size."""

    size: str = flag(dataclasses.MISSING, "the model, by its number of parameters", choices=tuple(SIZES))
    base_url: str | None = flag(None, f"URL of the folder that holds all sizes (${BASE_URL_VARIABLE}, or OpenAI's)")

    def __post_init__(self) -> None:
        check_ranges(self)


def download(settings: DownloadSettings) -> Path:
    """Downloads those of a model's seven files that are missing, and returns their folder.

    Raises InputError if a file cannot be downloaded or written.
    """
    base_url = settings.base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    folder = Path("models") / settings.size
    check_writable(folder, 0, "work in a folder that you can write to")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        for name in FILES:
            task = progress.add_task(name, total=None)
            show = functools.partial(show_progress, progress, task)
            download_file(f"{base_url.rstrip('/')}/{settings.size}/{name}", folder / name, show)
            size = (folder / name).stat().st_size
            show(size, size)
    return folder


def show_progress(progress: Progress, task: TaskID, done: int, total: int | None) -> None:
    """Updates a file's bar, in bytes."""
    progress.update(task, completed=done, total=total)
