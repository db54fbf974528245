"""The files that belong to a checkpoint: its hyper-parameters, its vocabulary and what its run saves."""

import re
from collections.abc import Sequence
from pathlib import Path

# A checkpoint of OpenAI's, of one training step (`model-1000`), of Hugging Face's or of peft's: its folder is its own.
ALONE = re.compile(r"(pytorch_|tf_|adapter_)?model(\.[^.]+|-\d+)?|.+\.index\.json")


def companion_folder(path: str | Path) -> Path:
    """The folder for the files that belong to a checkpoint.

    A folder is its own companion. `FOLDER/model.*` and `FOLDER/model-1000` have FOLDER, as OpenAI and Hugging Face
    lay out their files, and so has peft's `FOLDER/adapter_model.*`. `FOLDER/NAME.h5` has `FOLDER/NAME/`, so that
    several models can share a folder.

    Example:
        >>> companion_folder("output/book.h5").as_posix()
        'output/book'
        >>> companion_folder("models/124M/model.ckpt").as_posix()
        'models/124M'
    """
    path = Path(path)
    if path.is_dir() and not Path(f"{path}.index").is_file():  # else the prefix of a TF1 checkpoint
        return path
    return path.parent if ALONE.fullmatch(path.name) else path.with_suffix("")


def find_companion(path: str | Path, *names: str, fallbacks: Sequence[Path] = ()) -> Path | None:
    """The first file called one of `names` that belongs to a checkpoint, or None.

    Searches the checkpoint's companion folder, the folder it is in, and then the folders `fallbacks`.
    """
    folders = list_folders(path, fallbacks)
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def list_folders(path: str | Path, fallbacks: Sequence[Path] = ()) -> list[Path]:
    """The folders to search for what belongs to a checkpoint; see `find_companion`."""
    return [companion_folder(path), Path(path).parent, *fallbacks]
