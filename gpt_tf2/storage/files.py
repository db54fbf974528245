"""Read text files with errors that name the fix, and write files atomically."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.text_files import UTF8_FIX, read_text


def read_utf8(path: str | Path, fix: str = "check the path", encoding_fix: str = UTF8_FIX) -> str:
    """Read a UTF-8 text file; see `read_text`, which also reads files with a byte order mark.

    Args:
        path: the file.
        fix: what the error advises if the file cannot be read.
        encoding_fix: what the error advises if the file is not UTF-8.

    Raises InputError if the file cannot be read or decoded.

    Example:
        >>> read_utf8("prompts.txt", encoding_fix="save the prompts as UTF-8")  # doctest: +SKIP
        'The tide\\n'
    """
    return read_text(path, None, fix, encoding_fix)


def read_or_empty(path: str) -> str:
    """Read a text file of the operating system, for example under `/proc`; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file so that readers see the old one or the new one, never half of it.

    Yields a temporary path beside `path`. On exit the temporary file is flushed to disk and renamed to `path`. If the
    body or the flush fails, it is deleted and the old file stays. Its name is fixed, so that the next writer replaces
    what a killed process left behind. Missing folders are created.

    Raises InputError, naming `path`, for any OSError: a full disk, a read-only folder.

    Example:
        >>> with atomic_write("output/scores.json") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync_to_disk(temporary)
        temporary.replace(path)
        sync_to_disk(path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}): free space or choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically; see `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(folder: Path, size: int, fix: str) -> None:
    """Create a folder if it is missing, and check that `size` bytes can be written to it.

    Raises InputError if nothing can be written there, which advises `fix`, or if the disk has too little space.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}): {fix}") from None
    if free < size:
        raise InputError(f"{folder}: {free / 1e9:.1f} GB free, {size / 1e9:.1f} GB needed: free space on this disk")


def sync_to_disk(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
