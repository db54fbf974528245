"""Write folders atomically."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import sync_to_disk, write_error


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
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: is there already: remove it, or choose another `output`")
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                sync_to_disk(file)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_to_disk(path.parent)
    except OSError as error:
        raise write_error(path, error) from None
