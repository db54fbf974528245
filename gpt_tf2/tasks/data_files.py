"""The files of a data set: a file, a folder, a glob or a stream."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.kept import KEPT_FOLDER
from gpt_tf2.storage.text_files import STDIN


def list_files(dataset_path: str) -> Iterator[str]:
    """List the files of a data set in a fixed order, without those that are kept beside them.

    A path that exists is that file or folder, whatever characters are in it; any other is a glob. A folder is walked;
    a linked folder is followed once, unless it lies inside the folder anyway.

    Raises InputError if a folder cannot be read.
    """
    if not dataset_path:
        return
    if Path(dataset_path).is_dir():
        yield from walk(dataset_path, os.path.realpath(dataset_path), set())
    elif is_stream(dataset_path) or os.path.lexists(dataset_path):
        yield dataset_path
    else:
        yield from expand(dataset_path)


def walk(folder: str, root: str, seen: set[str]) -> Iterator[str]:
    """List the files in a folder. root: the real path of the first folder. seen: those of all folders so far."""
    seen.add(os.path.realpath(folder))
    try:
        with os.scandir(folder) as listing:
            entries = sorted((entry.name, entry.is_dir(), entry.is_symlink(), entry.path) for entry in listing)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}): check its permissions") from None
    for name, is_folder, is_link, path in entries:
        if not is_folder:
            yield path
        elif name != KEPT_FOLDER:
            target = os.path.realpath(path)
            is_inside = is_link and Path(target).is_relative_to(root)  # and so walked without the link
            if target not in seen and not is_inside:
                yield from walk(path, root, seen)


def expand(pattern: str) -> Iterator[str]:
    """List the files that match a glob, each once: `**` follows links to folders round and round."""
    seen = set()
    fixed, rest = split_glob(pattern)
    # Path.glob takes no absolute pattern.
    for path in sorted(glob.glob(os.path.join(glob.escape(fixed), rest), recursive=True)):  # noqa: PTH118, PTH207
        folder, name = os.path.split(path)
        place = os.path.realpath(folder), name
        if place not in seen:
            seen.add(place)
            yield path


def split_glob(dataset_path: str) -> tuple[str, str]:
    """Split a path into the part that exists and the pattern below it.

    Example:
        >>> split_glob("/tmp/*.txt")
        ('/tmp', '*.txt')
    """
    path = Path(dataset_path)
    fixed = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    return ("" if fixed == Path() else str(fixed)), str(path.relative_to(fixed))


def folder_of(dataset_path: str) -> Path:
    """The folder that a data set is or lies in; of a glob, the last folder before the first wildcard."""
    path = Path(split_glob(dataset_path)[0] or ".")
    return path if path.is_dir() else path.parent


def is_stream(dataset_path: str) -> bool:
    """Whether a path can be read only once: stdin, a FIFO, or what a process substitution names."""
    return dataset_path == STDIN or dataset_path.startswith("/dev/") or Path(dataset_path).is_fifo()
