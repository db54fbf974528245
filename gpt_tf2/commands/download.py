"""`download`: one of OpenAI's models into `models/SIZE/`."""

import dataclasses
import functools
import os
import sys
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

from gpt_tf2.checkpoints.download import download_file
from gpt_tf2.checkpoints.released import BASE_URL, FILES, find_damage, find_differences, find_largest_size
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
    """Download those of a model's seven files that are missing or damaged, and return their folder.

    OpenAI's server must send the released model. Another server's may be any GPT-2 whose files belong together; if they
    are known to differ from OpenAI's, a line on stderr says so.

    Raises InputError if a file cannot be downloaded or written.
    """
    base_url = (settings.base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL).rstrip("/")
    size = settings.size if base_url == BASE_URL else None
    folder = Path("models") / settings.size
    check_writable(folder, 0, "work in a folder that you can write to")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        for name in FILES:
            task = progress.add_task(name, total=None)
            download_file(
                f"{base_url}/{settings.size}/{name}",
                folder / name,
                functools.partial(show_progress, progress, task),
                find_damage=functools.partial(find_damage, name=name, size=size),
                largest=find_largest_size(name, folder, size),
            )
            done = (folder / name).stat().st_size
            show_progress(progress, task, done, done)
    if size is None and (names := find_differences(folder, settings.size)):
        print(f"{folder}: not OpenAI's {settings.size}, which has another {', '.join(names)}", file=sys.stderr)
    return folder


def show_progress(progress: Progress, task: TaskID, done: int, total: int | None) -> None:
    """Updates a file's bar, in bytes."""
    progress.update(task, completed=done, total=total)


def print_download(settings: DownloadSettings) -> None:
    """Downloads, and prints the folder."""
    print(download(settings))
