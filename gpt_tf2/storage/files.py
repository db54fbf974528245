"""Reading text with errors that say the mend, and writing a file so that it is whole or not there."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.errors import InputError

KEPT = ".gpt_tf2"  # the folder beside a data set for what is prepared of it


def read_utf8(path: str | Path, unread: str = "check the path", undecoded: str = "write it again as UTF-8") -> str:
    """The text of a UTF-8 file. Raises InputError with the mend if it cannot be read, or decoded."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {unread}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}: {undecoded}") from None


def read_json(path: str | Path) -> object:
    """The content of a JSON file. Raises InputError, naming file and place, if it cannot be read or parsed."""
    try:
        return json.loads(read_utf8(path, undecoded="not a JSON file; check the path"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg}): fetch or write the file again") from None


def text_of(path: str) -> str:
    """The text of a file of the system, empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def digest_of(path: str | Path) -> bytes:
    """The SHA-256 of what a file holds."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.digest()


def stamp_of(path: str | Path) -> str:
    """A file's name, size and times: the same only if it was not touched."""
    found = os.stat(path)  # noqa: PTH116 - of 100,000 files
    return f"{path}\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n"


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; on leaving, it is flushed to disk and renamed to `path`.

    If the body or the flush fails, the temporary file goes, and what stood at `path` stays. An OSError (full disk,
    read-only folder) becomes an InputError that names `path`. The temporary name is fixed, so that what a killed
    process left is overwritten by the next one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}): free space or choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path, size: int, mend: str) -> None:
    """Raises InputError, with the mend, unless files of `size` bytes in all can be written to a folder; makes it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}): {mend}") from None
    if free < size:
        raise InputError(f"{folder}: {free / 1e9:.1f} GB free, {size / 1e9:.1f} GB are needed: free space on this disk")


def sync(path: Path) -> None:
    """Flushes a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
