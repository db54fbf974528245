"""The files that belong to a checkpoint: its hyper-parameters, its vocabulary and what its run saves."""

from collections.abc import Sequence
from pathlib import Path


def companion_folder(path: str | Path) -> Path:
    """The folder for the files that belong to a checkpoint.

    A folder is its own companion. `FOLDER/model.*` has FOLDER, the layout of OpenAI and Hugging Face, and so has peft's
    `FOLDER/adapter_model.*`. `FOLDER/NAME.h5` has `FOLDER/NAME/`, so that several models can share a folder.

    Example:
        >>> companion_folder("output/book.h5").as_posix()
        'output/book'
        >>> companion_folder("models/124M/model.ckpt").as_posix()
        'models/124M'
    """
    path = Path(path)
    if path.is_dir():
        return path
    return path.parent if path.stem in ("model", "adapter_model") else path.with_suffix("")


def find_companion(path: str | Path, *names: str, fallbacks: Sequence[Path] = ()) -> Path | None:
    """The first file called one of `names` that belongs to a checkpoint, or None.

    Searches the checkpoint's companion folder, the folder it is in, and then the folders `fallbacks`.
    """
    folders = [companion_folder(path), Path(path).parent, *fallbacks]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
