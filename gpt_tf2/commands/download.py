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

from gpt_tf2.checkpoints.download import BASE, FILES, download_file
from gpt_tf2.commands.flags import flag
from gpt_tf2.config import SIZES
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import check_writable

BASE_VARIABLE = "GPT_TF2_BASE_URL"


@dataclasses.dataclass(frozen=True)
class DownloadSettings:
    """The arguments of `download_model.py`."""

    size: str = flag(dataclasses.MISSING, "the model", choices=tuple(SIZES))
    base_url: str | None = flag(None, f"the folder of the sizes' folders (${BASE_VARIABLE}, or OpenAI's bucket)")

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"SIZE {self.size}: unknown: give one of {', '.join(SIZES)}")


def show_progress(progress: Progress, task: TaskID, done: int, total: int | None) -> None:
    progress.update(task, completed=done, total=total)


def download(settings: DownloadSettings) -> Path:
    """Downloads a model's seven files, those that are not there yet, and returns their folder.

    Raises InputError if a file cannot be had whole.
    """
    base = settings.base_url or os.environ.get(BASE_VARIABLE) or BASE
    folder = Path("models") / settings.size
    check_writable(folder, 0, "work in a folder that can be written to")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        for name in FILES:
            task = progress.add_task(name, total=None)

            show = functools.partial(show_progress, progress, task)
            download_file(f"{base.rstrip('/')}/{settings.size}/{name}", folder / name, show)
            size = (folder / name).stat().st_size
            progress.update(task, completed=size, total=size)
    return folder
