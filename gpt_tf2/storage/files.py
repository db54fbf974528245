"""Read text files with errors that name the fix, and write files atomically."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_tf2.errors import InputError
from gpt_tf2.storage.text_files import UTF8_FIX, read_text

BLOCK = 1 << 20  # bytes hashed at a time
STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}


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
    """Read a small text file, for example of the operating system under `/proc`; empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace") if Path(path).is_file() else ""
    except OSError:
        return ""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file so that readers see the old one or the new one, never half of it.

    Yields the path of an empty temporary file beside `path`, whose name nobody else has. On exit it is flushed to disk
    and takes the place of `path`; if the body or the flush fails, it is deleted and the old file stays. What killed
    writers of the same file left behind is removed. Missing folders are created.

    A symbolic link stays, and the file that it names is replaced. The old file's mode stays, and its owner where the
    system allows that. A device, a FIFO or a descriptor such as `/dev/stdout` gets the bytes once they are complete.

    Raises InputError, naming `path`, for any OSError: a full disk, a read-only folder.

    Example:
        >>> with atomic_write("output/scores.json") as temporary:  # doctest: +SKIP
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    try:
        if is_stream(path):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / "content"
                temporary.touch()
                yield temporary
                with temporary.open("rb") as content, os.fdopen(open_stream(path), "wb") as stream:
                    shutil.copyfileobj(content, stream)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with create_beside(Path(os.path.realpath(path))) as temporary:
            yield temporary
            replace_file(temporary, path)
    except OSError as error:
        raise write_error(path, error) from None


def write_error(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror or error}): free space or choose another folder")


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a FIFO, a socket or an open descriptor, which are written to but never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return find_descriptor(path) is not None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def find_descriptor(path: Path) -> int | None:
    """Return the number of the open descriptor that a path such as `/dev/stdout` or `/dev/fd/3` names, or None."""
    if str(path) in STANDARD:
        return STANDARD[str(path)]
    is_number = path.name.isdecimal() and os.path.realpath(path.parent) == f"/proc/{os.getpid()}/fd"
    return int(path.name) if is_number else None


def open_stream(path: Path) -> int:
    """Open a stream for writing. A descriptor is duplicated: opened again, it would begin at its file's first byte."""
    number = find_descriptor(path)
    return os.open(path, os.O_WRONLY) if number is None else os.dup(number)


@contextlib.contextmanager
def create_beside(path: Path) -> Iterator[Path]:
    """Create an empty file beside `path`, with a name of its own, and delete it on exit unless it was renamed.

    `path` is real: its links are resolved.

    It is locked meanwhile, and the system lifts the lock if the process is killed: so the next writer can tell what
    was left behind from what is still being written.
    """
    for is_in_the_way, code in ((path.is_dir(), errno.EISDIR), (path.is_symlink(), errno.ELOOP)):
        if is_in_the_way:
            raise OSError(code, os.strerror(code))
    begin = f".{path.name[:50]}."  # a name may take 255 bytes
    remove_leftovers(path.parent, begin)
    while True:
        temporary = path.with_name(f"{begin}{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # some file systems have no locks, and keep what was left behind
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # another process may have taken it for a leftover just before the lock
            break
        os.close(descriptor)
    try:
        if path.exists():
            temporary.chmod(0o600)  # until it has the mode of the file that it replaces
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        os.close(descriptor)


def remove_leftovers(folder: Path, begin: str) -> None:
    """Delete the temporary files of killed writers, whose names start with `begin`."""
    for leftover in folder.glob(f"{glob.escape(begin)}{'[0-9a-f]' * 16}.tmp"):
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
            finally:
                os.close(descriptor)


def replace_file(source: Path, path: Path) -> None:
    """Flush a file to disk and rename it to `path`, with the mode of the file that was there. Links stay."""
    target = Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        old = target.stat()
        with contextlib.suppress(OSError):
            os.chown(source, old.st_uid, old.st_gid)
        source.chmod(stat.S_IMODE(old.st_mode))
    sync_to_disk(source)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with create_beside(target) as copy:  # a link led to another file system
            shutil.copyfile(source, copy)
            replace_file(copy, target)
        source.unlink()
    sync_to_disk(target.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically; see `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_output(path: str | Path, fix: str) -> None:
    """Check before the work that a file can be written to `path`. Creates its folder.

    Raises InputError if it cannot, which advises `fix`.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder: {fix}")
    if not is_stream(path):
        check_writable(path.parent, 0, fix)


def is_writable(folder: Path) -> bool:
    """Whether a folder, or the nearest one above it that exists, can be written to."""
    above = (folder, *folder.absolute().parents)
    return os.access(next(path for path in above if os.path.exists(path)), os.W_OK | os.X_OK)  # noqa: PTH110 - no errors


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


def hash_file(path: str | Path, algorithm: str = "sha256") -> Any:
    """Hash a file's content. Returns the object of hashlib. Raises OSError if the file cannot be read.

    Example:
        >>> hash_file("/dev/null").hexdigest()[:8]
        'e3b0c442'
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:  # noqa: PTH123 - a Path for each of 100,000 files takes longer than the call
        while block := file.read(BLOCK):
            digest.update(block)
    return digest


def sync_to_disk(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
