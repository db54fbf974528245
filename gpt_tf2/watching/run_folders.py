"""Finding runs, and reading what they append to their histories."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.storage.locks import is_locked
from gpt_tf2.training.loggers.history_file import HISTORY


@dataclasses.dataclass(frozen=True)
class Appended:
    """What a history has beyond an offset.

    file: identifies the file, which a new run of the same name replaces; 0 if there is none.
    start, end: the offsets of the text, in bytes.
    text: whole lines.
    is_all: whether there are no more for now.
    """

    file: int = 0
    start: int = 0
    end: int = 0
    text: str = ""
    is_all: bool = True


def find_runs(outputs: Iterable[Path]) -> dict[str, Path]:
    """The folders of runs by a name of their own.

    Args:
        outputs: models that runs write, folders of runs, or folders that hold several of them.

    Example:
        >>> find_runs([Path("output/book.h5")])  # doctest: +SKIP
        {'book': PosixPath('output/book')}
    """
    folders = list(dict.fromkeys(folder for output in outputs for folder in list_folders(output)))
    counts = Counter(folder.resolve().name for folder in folders)
    names = ((folder.resolve().name, folder) for folder in folders)
    return {str(folder) if counts[name] > 1 else name: folder for name, folder in names}


def list_folders(output: Path) -> list[Path]:
    """The folders of the runs that write an output, or that lie in it. A run that prepares its data is one as well."""
    folder = companion_folder(output)
    if (folder / HISTORY).is_file() or is_running(folder):
        return [folder]
    return sorted(history.parent for history in folder.glob(f"*/{HISTORY}"))


def is_running(folder: Path) -> bool:
    """Whether a process writes the run of a folder, by the lock that it holds."""
    return is_locked(Path(os.path.realpath(folder)))


def read_appended(path: Path, file: int, start: int, most: int) -> Appended:
    """What has been appended to a history, all of it if it is another file than before.

    Args:
        file, start: identity and end of what is known.
        most: bytes to read.
    """
    try:
        with path.open("rb") as opened:
            status = os.fstat(opened.fileno())
            start = start if status.st_ino == file and status.st_size >= start else 0
            opened.seek(start)
            content = opened.read(most)
    except OSError:  # it has not begun, or somebody has deleted it
        return Appended()
    lines = content[: content.rfind(b"\n") + 1]  # the last line may still be written
    is_all = start + len(content) >= status.st_size
    return Appended(status.st_ino, start, start + len(lines), lines.decode(errors="replace"), is_all)
