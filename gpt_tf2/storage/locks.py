"""Locks between processes. The system lifts a lock when its process ends, however it ends; its file goes as well."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from gpt_tf2.errors import InputError

SUFFIX = ".gpt_tf2-lock"
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
PATIENCE = 1.0  # seconds to wait in silence: the other process may be about to end


def lock_path(path: Path) -> Path:
    """Return the path of the lock of a file or folder, beside it."""
    return path.with_name(f".{path.name}{SUFFIX}")


@contextlib.contextmanager
def hold_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file or folder. The folder that it lies in is created.

    Args:
        on_wait: called if another process holds the lock for longer than a moment; what it raises ends the wait.

    Raises OSError if the lock's file cannot be created.
    """
    lock = filelock.FileLock(lock_path(path))
    timeout = PATIENCE
    while not lock.is_locked:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout)
        except filelock.Timeout:
            lock_path(path).touch()  # raises if nobody can lock it
            on_wait()
            timeout = -1
        except FileNotFoundError:
            continue  # the process that held the lock left nothing, not even the folder
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
                raise
            break  # this file system has no locks: who works on it has to take care
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock_path(path).unlink()  # before the release: whoever waits notices, and locks a new file
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file or folder. False where the file system has no locks."""
    if not path.name:  # the root, beside which nothing lies
        return False
    try:
        with lock_path(path).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has locked it
        return False
    return False


def find_locks(folder: Path) -> list[Path]:
    """Return what the locks in a folder are of, held or left by killed processes."""
    return [path.with_name(path.name[1 : -len(SUFFIX)]) for path in folder.glob(f".*{SUFFIX}")]


@contextlib.contextmanager
def write_alone(path: Path, setting: str, locked: Path) -> Iterator[None]:
    """Be the only process that writes an output. Its folder is created, and removed if nothing is written.

    Args:
        path: the output, named by the error.
        setting: chooses the output.
        locked: the path to lock: what outputs share that cannot be written at once.

    Raises InputError if another process is writing it, or if nothing can be written beside it.

    Example:
        >>> with write_alone(Path("output/book.h5"), "output_name", Path("output/book")):  # doctest: +SKIP
        ...     train()
    """

    def refuse() -> None:
        raise InputError(f"{path}: another process is writing it: wait for its end, or choose another `{setting}`")

    with contextlib.ExitStack() as stack:
        if not locked.parent.exists():
            stack.callback(remove_if_empty, locked.parent)
        try:
            stack.enter_context(hold_lock(Path(os.path.realpath(locked)), refuse))
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{path}: cannot be written ({reason}): choose another `{setting}`, or fix the permissions"
            ) from None
        yield


def remove_if_empty(folder: Path) -> None:
    """Remove a folder unless something is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
