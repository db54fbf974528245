"""Write a folder atomically: it is there with all its files, or not at all."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import sync_to_disk, write_error


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Write a folder under another name, flush it to disk, and rename it; if the body fails, it is deleted.

    Yields the temporary folder, beside `path`. Missing folders above it are created. An empty folder is replaced; one
    that holds something is not, since it may be the user's own.

    Raises InputError if the folder holds something, or, naming `path`, for any OSError.

    Example:
        >>> with atomic_folder(Path("124M-onnx")) as folder:  # doctest: +SKIP
        ...     (folder / "config.json").write_text("{}")
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise InputError(f"{path}: exists: delete it, or choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:50]}.", suffix=".tmp", dir=path.parent) as outer:
            folder = Path(outer) / "folder"  # made by the usual rules of who may read it
            folder.mkdir()
            yield folder
            for file in [*folder.rglob("*"), folder]:
                sync_to_disk(file)
            if path.is_dir():
                path.rmdir()
            folder.rename(path)
            sync_to_disk(path.parent)
    except OSError as error:
        raise write_error(path, error) from None
