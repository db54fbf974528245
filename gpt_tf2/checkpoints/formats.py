"""Choosing a checkpoint's format by its path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_tf2.checkpoints import adapters, hdf5, huggingface, openai
from gpt_tf2.checkpoints.checkpoint import Checkpoint, beside, home
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import write_text

HDF5_SUFFIXES = (".h5", ".hdf5")
FORMATS = "a TF1 checkpoint (its folder, or the prefix model.ckpt), a .h5 or a .safetensors file"


def locate(path: str | Path) -> Path:
    """The file of a checkpoint, or the prefix of a TF1 checkpoint.

    Args:
        path: as in `open_checkpoint`.

    Raises InputError if there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("model.safetensors", "model.ckpt.index"):
            if (path / name).is_file():
                return path / name.removesuffix(".index")
        raise InputError(f"{path}: neither model.ckpt.index nor model.safetensors in this folder: give {FORMATS}")
    if not path.is_file() and not is_prefix(path):
        raise InputError(f"{path}: no such checkpoint: download it (gpt-tf2 download SIZE), or give {FORMATS}")
    return path


def is_prefix(path: Path) -> bool:
    """Whether a path is the prefix of a TF1 checkpoint."""
    return path.with_name(path.name + ".index").is_file()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint without reading its tensors.

    Args:
        path: a folder that holds `model.safetensors` or `model.ckpt.index`, the prefix of a TF1 checkpoint, a `.h5`
            or a `.safetensors` file.

    Raises InputError if there is none, if it is truncated, or if another program wrote it.
    """
    path = locate(path)
    if is_prefix(path):
        return openai.open_checkpoint(path)
    if path.suffix in HDF5_SUFFIXES:
        base = adapters.base_of(path)
        return adapters.merged(path, open_base(path, base)) if base else hdf5.open_checkpoint(path)
    if path.suffix == ".safetensors":
        return huggingface.open_checkpoint(path)
    raise InputError(f"{path}: not a checkpoint: give {FORMATS}")


def open_base(path: Path, base: str) -> Checkpoint:
    """The model that the adapters at `path` belong to."""
    try:
        return open_checkpoint(base)
    except InputError as error:
        raise InputError(f"{path} holds adapters of {base}, which cannot be opened: {error}") from None


def source_files(path: Path, json_hparams: str | None = None) -> tuple[Path, ...]:
    """The files that a located checkpoint's weights and hyper-parameters are read from."""
    hparams = json_hparams or beside(path, "hparams.json", "config.json")
    about = (Path(hparams),) if hparams else ()
    if is_prefix(path):
        return (*(path.with_name(path.name + suffix) for suffix in (".index", openai.DATA)), *about)
    base = adapters.base_of(path) if path.suffix in HDF5_SUFFIXES else None
    return (path, *about, *(source_files(locate(base)) if base else ()))


def write_checkpoint(path: str | Path, config: GPT2Config, tensors: Mapping[str, Any]) -> Path:
    """Writes a checkpoint, atomically, and returns its file or prefix; the hyper-parameters go into it or beside it.

    Args:
        path: `NAME.h5`; `NAME.safetensors` (`FOLDER/model.safetensors` makes a folder that transformers opens); or a
            TF1 checkpoint's prefix `NAME.ckpt` or folder.
        tensors: OpenAI's name to array, float32.

    Raises InputError if the path names no format, or cannot be written.
    """
    path = Path(path)
    check_format(path)
    if path.suffix in HDF5_SUFFIXES:
        hdf5.write(path, config, tensors)
    elif path.suffix == ".safetensors":
        huggingface.write(path, config, tensors)
    else:
        if not path.suffix:
            path = path / "model.ckpt"
        openai.write(path, tensors)
        write_text(home(path) / "hparams.json", config.to_json())
    return path


def check_format(path: Path) -> None:
    """Raises InputError unless the path names a format to write."""
    if path.suffix not in (*HDF5_SUFFIXES, ".safetensors", ".ckpt", ""):
        raise InputError(f"{path}: unknown format {path.suffix}: end the name in .h5, .safetensors or .ckpt")
