"""Folders that are built from source files once and kept: prepared tokens and converted models.

A kept folder is reused while its sources and its settings stay the same and none of its files is damaged. Otherwise
it is built again, as is a folder that came with somebody's files: the account in it is signed with a key of this
user's. One process builds; others that need the same folder wait and use its work.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import hash_file, is_writable, sync_to_disk, write_text
from gpt_tf2.storage.json_text import parse_json
from gpt_tf2.storage.locks import find_locks, hold_lock, lock_path, remove_if_empty
from gpt_tf2.storage.machine import is_signed, sign

KEPT_FOLDER = ".gpt_tf2"  # holds the kept folders, beside their sources
ABOUT = "about.json"  # in each kept folder, what it was built from
UNFINISHED = ".gpt_tf2-unfinished"  # ends the name of a folder that is being built
LARGEST_ABOUT = 1 << 24  # bytes
CHECKSUM_BLOCK = 1 << 22  # bytes read at a time


@dataclasses.dataclass(frozen=True)
class Sources:
    """The files that a folder is built from.

    paths: lists their absolute paths in a fixed order. Called each time, because files come and go.
    name: what a path is called in the digest. Only these names and the content count there, not where the files lie.
    """

    paths: Callable[[], Iterable[str]]
    name: Callable[[str], str] = os.path.basename

    def stamp(self) -> str:
        """Hash the paths, sizes and times: cheap, and the same only if no file was touched.

        A file's change time is set by the system alone, so that an edit shows even with the old size and times.
        """
        digest = hashlib.sha256()
        for path in self.paths():
            with contextlib.suppress(OSError):  # a dangling link has no stamp
                entry = os.stat(path)  # noqa: PTH116 - a Path for each of 100,000 files takes longer than the call
                stamp = f"{path}\0{entry.st_size} {entry.st_mtime_ns} {entry.st_ctime_ns}\n"
                digest.update(stamp.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def digest(self) -> str:
        """Hash the names and the content of all files, with SHA-256."""
        digest = hashlib.sha256()
        for path in self.paths():
            digest.update(f"{self.name(path)}\0".encode(errors="surrogateescape"))
            with contextlib.suppress(OSError):
                if os.path.isfile(path):  # noqa: PTH113 - see `stamp`; a pipe that nobody writes never ends
                    digest.update(hash_file(path).digest())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Kept:
    """A kept folder that is whole and up to date.

    key: what it depends on besides its sources. stamp, content: of its sources; see `Sources.stamp` and
    `Sources.digest`. checksums: file name to size in bytes and CRC-32. facts: the JSON values that the build returned.
    """

    folder: Path
    key: str
    stamp: str
    content: str
    checksums: dict[str, list[int]]
    facts: dict[str, Any]


@contextlib.contextmanager
def open_or_build(
    folder: Path,
    key: str,
    sources: Sources,
    build: Callable[[Path], dict[str, Any]],
    *,
    on_wait: Callable[[], None],
    fix: str,
    changed: InputError,
    otherwise: Path | None = None,
) -> Iterator[Kept]:
    """Open a kept folder, or build it if it is missing, out of date, damaged or another machine's.

    Inside the `with` block no other process replaces the folder, so open its files there. What is open stays readable
    afterwards.

    Args:
        folder: where the folder lies. While it is built or opened, its lock and its temporary folder lie beside it;
            their names begin with a dot. What killed processes left of theirs is removed.
        key: what the folder depends on besides its sources: settings, the format of its files.
        sources: the files that it is built from.
        build: writes the files to a temporary folder and returns facts to keep, JSON values. The folder takes its
            place only when they are all on disk; a build that fails leaves nothing behind.
        on_wait: called if another process holds the folder for longer than a moment.
        fix: what the error advises if the folder cannot be written.
        changed: raised if the sources change during the build.
        otherwise: where the folder lies if it is not current and nothing can be written where it should lie.

    Raises InputError if the folder has to be built but cannot be written. A folder that is up to date is read where
    nothing can be written, without a lock.

    Example:
        >>> with open_or_build(  # doctest: +SKIP
        ...     Path("/data/.gpt_tf2/lengths"),
        ...     "format 1",
        ...     Sources(lambda: sorted(glob.glob("/data/*.txt"))),
        ...     write_lengths,
        ...     on_wait=lambda: print("another process is counting: waiting"),
        ...     fix="free space",
        ...     changed=InputError("/data: changed while it was read: start again"),
        ... ) as kept:
        ...     lengths = np.load(kept.folder / "lengths.npy")
    """
    if otherwise and not is_writable(folder.parent) and open_current(folder, key, sources) is None:
        folder = otherwise
    with locked(folder, on_wait, fix):
        kept = open_current(folder, key, sources, report_damage)
        yield kept or build_folder(folder, key, sources, build, fix, changed)


def report_damage(line: str) -> None:
    """Print why a folder is built again, on stderr: that is no part of any result."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(folder: Path, on_wait: Callable[[], None], fix: str) -> Iterator[None]:
    """Hold a folder's lock, after removing what killed builds left behind. Leaves nothing if no folder is built."""
    with contextlib.ExitStack() as stack:
        stack.callback(remove_if_empty, folder.parent)
        try:
            stack.enter_context(hold_lock(folder, on_wait))
        except OSError as error:
            if not folder.is_dir():
                raise write_error(folder.parent, error, fix) from None
            yield  # read-only: what lies there can still be read
            return
        remove_unfinished(folder)
        for other in set(find_locks(folder.parent)) - {folder}:
            with contextlib.suppress(OSError, filelock.Timeout), filelock.FileLock(lock_path(other), timeout=0):
                remove_unfinished(other)
                lock_path(other).unlink()
        yield


def unfinished_path(folder: Path) -> Path:
    """Return the path of the temporary folder in which a folder is built."""
    return folder.with_name(f".{folder.name}{UNFINISHED}")


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed build of a folder left, even if that is a link, which is not followed."""
    path = unfinished_path(folder)
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def open_current(
    folder: Path, key: str, sources: Sources, report: Callable[[str], None] = lambda line: None
) -> Kept | None:
    """Open a kept folder if it is whole, has this key and was built from the sources as they are now.

    Args:
        report: called with a line if it is damaged.
    """
    kept = read_about(folder)
    if kept is None:
        if folder.exists():
            report(f"{folder}: damaged, or made by another user or version: making it again")
        return None
    stamp = sources.stamp()
    if kept.key != key or (kept.stamp != stamp and kept.content != sources.digest()):
        return None
    if not is_whole(kept):
        report(f"{folder}: damaged: making it again")
        return None
    if kept.stamp != stamp:  # touched, but the same: the next start need not read all sources
        kept = dataclasses.replace(kept, stamp=stamp)
        with contextlib.suppress(InputError):  # the folder may be read-only
            write_text(folder / ABOUT, format_about(kept))
    return kept


def build_folder(
    folder: Path,
    key: str,
    sources: Sources,
    build: Callable[[Path], dict[str, Any]],
    fix: str,
    changed: InputError,
) -> Kept:
    """Build in a temporary folder, check that the sources have not changed, and put it in place."""
    stamp, content = sources.stamp(), sources.digest()
    temporary = unfinished_path(folder)
    try:
        temporary.mkdir()
        facts = build(temporary)
        names = sorted(path.name for path in temporary.iterdir())
        kept = Kept(folder, key, stamp, content, compute_checksums(temporary, names), facts)
        if sources.stamp() != stamp and sources.digest() != content:
            raise changed
        (temporary / ABOUT).write_text(format_about(kept), encoding="utf-8")
        for name in (*names, ABOUT):
            sync_to_disk(temporary / name)
        sync_to_disk(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync_to_disk(folder.parent)
    except OSError as error:
        raise write_error(folder, error, fix) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return kept


def read_about(folder: Path) -> Kept | None:
    """Read what a folder was built from; None if it is missing, damaged, of another version or another machine."""
    path = folder / ABOUT
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_ABOUT:  # what somebody made may be a FIFO, or endless
            return None
        about: Any = parse_json(path.read_bytes(), str(path))
        signature = about.pop("signature")
        if is_signed(encode_about(about), signature):
            return Kept(folder, **about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def format_about(kept: Kept) -> str:
    """Write what a folder was built from as JSON, with a signature."""
    about = {name: value for name, value in vars(kept).items() if name != "folder"}
    return json.dumps({**about, "signature": sign(encode_about(about))})


def encode_about(about: dict[str, Any]) -> bytes:
    return json.dumps(about).encode()


def is_whole(kept: Kept) -> bool:
    """Check that no file of a folder is missing or damaged."""
    try:
        return compute_checksums(kept.folder, list(kept.checksums)) == kept.checksums
    except OSError:
        return False


def compute_checksums(folder: Path, names: list[str]) -> dict[str, list[int]]:
    """Compute the size and the CRC-32 of files, in threads."""

    def compute(name: str) -> list[int]:
        size = checksum = 0
        with (folder / name).open("rb") as file:
            while block := file.read(CHECKSUM_BLOCK):
                size, checksum = size + len(block), zlib.crc32(block, checksum)
        return [size, checksum]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(names, threads.map(compute, names), strict=True))


def write_error(path: Path, error: OSError, fix: str) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror or error}): {fix}")
