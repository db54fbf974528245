"""`download`: one of OpenAI's models, into the user's cache folder or another one."""

import functools
import time
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gpt_tf2.checkpoints.download import download_file
from gpt_tf2.checkpoints.released import (
    FILES,
    cached_folder,
    expected_size,
    find_damage,
    find_differences,
    find_largest_size,
    find_server,
)
from gpt_tf2.commands.download_settings import DownloadSettings
from gpt_tf2.commands.progress import SECONDS_BETWEEN_LINES, Display, print_to_stderr
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import check_writable


def download(settings: DownloadSettings) -> Path:
    """Downloads a model, and returns its folder; see `download_model`."""
    folder = Path(settings.folder) / settings.size if settings.folder else cached_folder(settings.size)
    if folder is None:
        raise InputError("no cache folder that only this user can write to: give another", "folder")
    return download_model(settings.size, folder, find_server(settings.base_url))


def download_model(size: str, folder: Path, base_url: str) -> Path:
    """Downloads those of a model's seven files that are missing or damaged, with progress on stderr.

    OpenAI's server must send the released model. Another server's may be any GPT-2 whose files belong together; if they
    are known to differ from OpenAI's, a line on stderr says so.

    Returns:
        The folder.

    Raises InputError if a file cannot be downloaded or written.
    """
    expected = expected_size(size, base_url)
    check_writable(folder, 0, "choose another folder (gpt-tf2 download SIZE with `folder`)")
    with show_download(size) as display:
        for number, name in enumerate(FILES, start=1):
            label = f"downloading {size}, file {number} of {len(FILES)}"
            download_file(
                f"{base_url}/{size}/{name}",
                folder / name,
                functools.partial(show_progress, display, label),
                find_damage=functools.partial(find_damage, name=name, size=expected),
                largest=find_largest_size(name, folder, expected),
            )
    if expected is None and (names := find_differences(folder, size)):
        print_to_stderr(f"{folder}: not OpenAI's {size}, which has another {', '.join(names)}")
    return folder


def show_download(size: str) -> Display:
    """A bar in bytes, on stderr: stdout is for what the command prints."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn())
    silent_until = time.monotonic() + SECONDS_BETWEEN_LINES
    return Display(
        *columns, TimeRemainingColumn(), label=size, total=None, done=0, silent_until=silent_until, stderr=True
    )


def show_progress(display: Display, label: str, done: int, total: int | None) -> None:
    """Shows how much of a file has arrived, in bytes."""
    of = f"/{total / 1e6:,.0f}" if total else ""
    display.update(done, total, label, f"{label}: {done / 1e6:,.0f}{of} MB")


def print_download(settings: DownloadSettings) -> None:
    """Downloads, and prints the folder."""
    print(download(settings))
