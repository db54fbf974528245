"""A text that is written piece by piece, by one process at a time."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import is_stream, open_stream


@contextlib.contextmanager
def write_pieces(path: str | Path, setting: str) -> Iterator[Callable[[str], None]]:
    """Write a text piece by piece, each before the next one is made.

    Yields the function to call with each piece. The first one replaces what was in the file. Whatever ends the process,
    the file holds whole pieces; a file that got none is as it was. Missing folders are created.

    Args:
        setting: named by the errors.

    Raises InputError if the file cannot be written, or if another process is writing it.

    Example:
        >>> with write_pieces("samples.txt", "output") as write:  # doctest: +SKIP
        ...     write("The tide …\\n")
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("is a folder: name a file in it", setting, path)
    is_new, is_file, size = not path.exists(), not is_stream(path), 0

    def write(piece: str) -> None:
        nonlocal size
        content = piece.encode("utf-8", "backslashreplace")
        try:
            if is_file and not size:
                os.ftruncate(descriptor, 0)
            write_whole(descriptor, content)
        except OSError as error:
            if is_file:
                os.ftruncate(descriptor, size)
            raise describe(error, path, setting) from None
        size += len(content)

    descriptor = open_alone(path, is_file, setting)
    try:
        yield write
    finally:
        if is_new and not size and is_file:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def open_alone(path: Path, is_file: bool, setting: str) -> int:
    """Open a file, which is locked, or a stream. Raises InputError if that fails, or another process has the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666) if is_file else open_stream(path)
    except OSError as error:
        raise describe(error, path, setting) from None
    if is_file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            message = "another process is writing it: wait for its end, or choose another"
            raise InputError(message, setting, path) from None
        except OSError:
            pass  # this file system has no locks
    return descriptor


def write_whole(descriptor: int, content: bytes) -> None:
    """Write all bytes, where the system may take fewer at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def describe(error: OSError, path: Path, setting: str) -> InputError:
    return InputError(f"cannot be written ({error.strerror}): free space, or choose another", setting, path)
