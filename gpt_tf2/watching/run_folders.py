"""Finding runs, and reading what they append to their histories."""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.storage.locks import is_locked
from gpt_tf2.training.loggers.history_file import HISTORY


@dataclasses.dataclass(frozen=True)
class Position:
    """A place in a history up to which it is known, and what stands before it: a new run may have replaced the file.

    start, end: of the last known line, in bytes.
    digest: of that line, which no other run has, as it holds the time.
    """

    start: int = 0
    end: int = 0
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Appended:
    """What a history has beyond a position.

    start: where the text begins, in bytes: 0 if the history is not the known one.
    text: whole lines, or the parts of one that is longer than what is read at once.
    position: the end of the text.
    is_all: whether there are no more for now.
    """

    start: int = 0
    text: str = ""
    position: Position = Position()
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
    return {show_path(str(folder) if counts[name] > 1 else name): folder for name, folder in names}


def show_path(path: str) -> str:
    r"""A path as text that stays the same in a URL, whatever bytes it has.

    Example:
        >>> print(show_path(os.fsdecode(b"b\xffk")))
        b\xffk
    """
    return os.fsencode(path).decode(errors="backslashreplace")


def list_folders(output: Path) -> list[Path]:
    """The folders of the runs that write an output, or that lie in it. A run that prepares its data is one as well."""
    folder = companion_folder(output)
    if (folder / HISTORY).is_file() or is_running(folder):
        return [folder]
    return sorted(history.parent for history in folder.glob(f"*/{HISTORY}"))


def is_running(folder: Path) -> bool:
    """Whether a process writes the run of a folder, by the lock that it holds."""
    return is_locked(Path(os.path.realpath(folder)))


def read_appended(path: Path, known: Position, most: int) -> Appended:
    """What has been appended to a history, all of it if it is another one than before.

    Args:
        known: what has been read before.
        most: bytes to read.
    """
    try:
        with path.open("rb") as opened:
            known = known if holds(opened, known, most) else Position()
            opened.seek(known.end)
            content = opened.read(most)
            size = os.fstat(opened.fileno()).st_size
    except OSError:  # it has not begun, or somebody has deleted it
        return Appended()
    lines = content[: content.rfind(b"\n") + 1]  # the last line may still be written
    if not lines and len(content) == most:  # no run writes one so long: the file is damaged
        lines = content
    is_all = known.end + len(content) >= size
    if not lines:
        return Appended(known.end, position=known, is_all=is_all)
    last = lines[lines.rfind(b"\n", 0, -1) + 1 :]
    end = known.end + len(lines)
    return Appended(known.end, lines.decode(errors="replace"), Position(end - len(last), end, hash_line(last)), is_all)


def holds(history: BinaryIO, known: Position, most: int) -> bool:
    """Whether a history holds the last line that is known of it, of up to `most` bytes."""
    length = known.end - known.start
    if not 0 < length <= most:
        return False
    history.seek(known.start)
    return hash_line(history.read(length)) == known.digest


def hash_line(line: bytes) -> str:
    """The digest of a line."""
    return hashlib.blake2b(line, digest_size=8).hexdigest()
