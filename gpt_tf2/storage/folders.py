"""Write folders atomically, and files and folders that are tried out before they replace others."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import replace_file, sync_to_disk, write_error


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Write a new folder so that it is there whole or not at all.

    Yields a temporary folder beside `path`. On exit its files are flushed to disk and it is renamed to `path`; if the
    body or that fails, it is deleted. Missing folders above are created.

    Raises InputError, naming `path`, if it is there and not an empty folder, and for any OSError: a full disk, a
    read-only folder.

    Example:
        >>> with new_folder(Path("output/book-hf")) as folder:  # doctest: +SKIP
        ...     (folder / "config.json").write_text("{}")
    """
    check_new(path)
    with temporary_folder(path) as temporary:
        yield temporary
        for file in [*temporary.rglob("*"), temporary]:
            sync_to_disk(file)
        temporary.rename(path)
        sync_to_disk(path.parent)


@contextlib.contextmanager
def stage(path: Path) -> Iterator[Path]:
    """Write a file or a new folder to try it out, and move it to `path` if it is good.

    Yields a path of the same name in a temporary folder beside `path`. On exit what was written there takes the place
    of the file or of the empty folder at `path`; if the body or that fails, it is deleted and the old file stays.

    Raises InputError, naming `path`, for any OSError.

    Example:
        >>> with stage(Path("output/book.gguf")) as written:  # doctest: +SKIP
        ...     written.write_bytes(content)
        ...     check(written)
    """
    with temporary_folder(path) as temporary:
        written = temporary / Path(os.path.abspath(path)).name  # noqa: PTH100 - links keep their names
        try:
            yield written
        except InputError as error:
            raise InputError(error.message.replace(str(written), str(path)), error.setting, error.value) from None
        if written.is_dir():
            written.rename(path)
            sync_to_disk(path.parent)
        else:
            replace_file(written, path)


def check_new(path: Path) -> None:
    """Raises InputError if something is at `path` that is not an empty folder."""
    try:
        is_there = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise write_error(path, error) from None
    if is_there:
        raise InputError(f"{path}: is there already: remove it, or choose another `output`")


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside `path`, and delete it on exit unless it was renamed.

    Raises InputError, naming `path`, for any OSError, also of the body.
    """
    place = Path(os.path.abspath(path))  # noqa: PTH100 - also of a path such as `.`, which has no name
    temporary = place.with_name(f".{place.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise write_error(path, error) from None
