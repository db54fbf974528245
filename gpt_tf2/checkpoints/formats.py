"""The format of a checkpoint, chosen by its path.

Each format is a module with `open_checkpoint` and `write`. Files of adapters open as their base and adapters merged.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_tf2.checkpoints import adapters, hdf5, huggingface, keras_2019, openai, peft, tf_transformers
from gpt_tf2.checkpoints.adapters import Adapters
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.companions import find_companion
from gpt_tf2.checkpoints.released import cached_folder, find_size
from gpt_tf2.checkpoints.shards import INDEX, find_index, list_files
from gpt_tf2.checkpoints.transformers_settings import NOTHING_KEPT, TransformersSettings, read_settings
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.storage.hdf5 import open_hdf5

HDF5_SUFFIXES = (".h5", ".hdf5")
SAFETENSORS = ".safetensors"
FORMATS = "a folder of a model, the prefix of a TF1 checkpoint, or a .h5, .safetensors or .bin file"
# What a folder of Hugging Face's may hold, the best first; a TF1 checkpoint comes before the others.
SAFETENSORS_MODELS = ("model.safetensors", "model.safetensors.index.json")
OTHER_MODELS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "tf_model.h5.index.json")


def locate(path: str | Path) -> Path:
    """The file of a checkpoint, or the prefix of a TF1 checkpoint.

    Args:
        path: as in `open_checkpoint`.

    Raises InputError if there is no checkpoint, or if the file is of no known format.
    """
    path = Path(path)
    openai.finish_save(path / "model.ckpt" if path.is_dir() else path)
    if openai.is_prefix(path):  # also where a folder has the same name: the one for what belongs to the checkpoint
        return path
    if path.is_dir():
        return locate_in_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint: download it (gpt-tf2 download SIZE), or give {FORMATS}")
    if prefix := openai.find_prefix(path):
        return prefix
    if index := find_index(path):
        raise InputError(f"{path}: one of several files of a model: give {index.parent} or {index}")
    if path.suffix == ".gguf":
        raise InputError(
            f"{path}: llama.cpp's file of a model: turn it into a checkpoint first (gpt-tf2 import {path})"
        )
    if path.suffix not in (*HDF5_SUFFIXES, SAFETENSORS, ".bin") and not path.name.endswith(INDEX):
        raise InputError(f"{path}: not a checkpoint: give {FORMATS}")
    return path


def locate_in_folder(folder: Path) -> Path:
    """The checkpoint in a folder. Raises InputError if there is none, or if it is not clear which."""
    for name in SAFETENSORS_MODELS:
        if (folder / name).is_file():
            return folder / name
    if prefix := openai.find_latest(folder):
        return prefix
    for name in (*OTHER_MODELS, *peft.FILES):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: neither model.safetensors nor model.ckpt.index in this folder: give {FORMATS}")


def open_adapters(path: Path) -> Adapters | None:
    """The adapters in a located checkpoint; None if it is a model.

    Raises InputError if the file is damaged, or if the adapters are of a kind that is not read.
    """
    if openai.is_prefix(path):
        return None
    if path.suffix in HDF5_SUFFIXES:
        return adapters.open_adapters(path)
    return peft.open_adapters(path) if path.name in peft.FILES else None


def read_config(path: Path, base: Path | None = None, above: tuple[Path, ...] = ()) -> GPT2Config | None:
    """The hyper-parameters that a located checkpoint carries, read without opening it; None if it carries none.

    Adapters that carry none have those of their base. The arguments are those of `open_located`.

    Raises InputError if they are damaged or malformed.
    """
    if openai.is_prefix(path):
        return None
    held = open_adapters(path)
    if held:
        with explain_base(held, base):
            return held.config or read_config_of_base(locate_base(held, base, above), (*above, path))
    if path.suffix not in HDF5_SUFFIXES:
        return huggingface.read_config(path)
    return find_hdf5_format(path).read_config(path)


def find_hdf5_format(path: Path) -> Any:
    """The module that reads an HDF5 file of a model, by what is in it. Raises InputError if the file is damaged."""
    file = open_hdf5(path)
    if tf_transformers.is_format(file):
        return huggingface
    return keras_2019 if keras_2019.is_format(file) else hdf5


def read_config_of_base(path: Path, above: tuple[Path, ...]) -> GPT2Config | None:
    """The hyper-parameters that a base carries, or else those in the `hparams.json` beside it."""
    carried, hparams = read_config(path, above=above), find_companion(path, "hparams.json")
    return carried or (GPT2Config.from_json(hparams) if hparams else None)


def open_checkpoint(path: str | Path, base: Path | None = None) -> Checkpoint:
    """Opens a checkpoint without reading its tensors.

    Args:
        path: a folder of a model, the prefix of a TF1 checkpoint, a `.h5`, `.safetensors` or `.bin` file, or the
            index of several (`model.safetensors.index.json`); or adapters: a `.h5` file, or peft's folder.
        base: the model that adapters belong to, if it is not where they say.

    Raises InputError if there is no checkpoint, or if it is truncated or in no known format.

    Example:
        >>> open_checkpoint("models/124M").shapes["wte"]  # doctest: +SKIP
        (50257, 768)
    """
    return open_located(locate(path), base)


def open_located(path: Path, base: Path | None = None, above: tuple[Path, ...] = ()) -> Checkpoint:
    """Opens a located checkpoint. above: the files of adapters whose base it is."""
    held = open_adapters(path)
    if held:
        with explain_base(held, base):
            opened = open_located(locate_base(held, base, above), above=(*above, path))
        return adapters.open_merged(held, opened)
    if openai.is_prefix(path):
        return openai.open_checkpoint(path)
    if path.suffix not in HDF5_SUFFIXES:
        return huggingface.open_checkpoint(path)
    return find_hdf5_format(path).open_checkpoint(path)


def locate_base(held: Adapters, base: Path | None = None, above: tuple[Path, ...] = ()) -> Path:
    """The file of the model that adapters belong to, which is in the first of their places that has one.

    A released model may also be where this user keeps it: whether it is the same shows when its tensors are read.

    Args:
        base: the model, if it is not where the adapters say.
        above: as in `open_located`.

    Raises InputError if there is none, or if it is one of the files above it.
    """
    bases = (str(base),) if base else held.bases
    if not bases:
        raise InputError("the adapters do not name it: give it as `base`")
    located = find_base(bases)
    if not located:
        if not base and not Path(bases[-1]).exists():
            raise InputError(f"{bases[-1]}: no such checkpoint: put it there, or give it as `base`")
        located = locate(bases[-1])
    if any(located.samefile(file) for file in (*above, held.path) if located.exists()):
        raise InputError(f"{located}: adapters of themselves: put the model there that they were made for")
    return located


def find_base(bases: tuple[str, ...]) -> Path | None:
    """The first of the places of a base that has a checkpoint, or else where this user keeps that released model."""
    size = find_size(bases[-1])
    kept = [Path("models") / size, Path(size), cached_folder(size)] if size else []
    places = [*bases, *(str(folder) for folder in kept if folder)]
    return next((located for located in map(try_to_locate, places) if located), None)


def try_to_locate(path: str) -> Path | None:
    """Like `locate`, but None if there is no checkpoint."""
    with contextlib.suppress(InputError):
        return locate(path)
    return None


@contextlib.contextmanager
def explain_base(held: Adapters, base: Path | None) -> Iterator[None]:
    """Adds to an error about the base of adapters that they need it."""
    try:
        yield
    except InputError as error:
        name = str(base or (held.bases or ["a model"])[-1])
        raise InputError(f"{held.path} holds adapters of {name}, which cannot be opened: {error.message}") from None


def list_sources(path: Path, base: Path | None = None, above: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """The files of a located checkpoint: its weights, those of its base, and the hyper-parameters that it carries.

    The arguments are those of `open_located`.
    """
    if openai.is_prefix(path):
        return tuple(openai.with_suffix(path, suffix) for suffix in (openai.INDEX, openai.DATA))
    held = open_adapters(path)
    if held:
        settings = [path.with_name(peft.SETTINGS)] if path.name in peft.FILES else []
        with explain_base(held, base):
            return (path, *settings, *list_sources(locate_base(held, base, above), above=(*above, path)))
    config_json = find_companion(path, "config.json")
    if path.suffix not in HDF5_SUFFIXES:
        return (*list_files(path), *([config_json] if config_json else []))
    return (path, config_json) if config_json and find_hdf5_format(path) is huggingface else (path,)


def read_transformers_settings(path: Path) -> TransformersSettings:
    """What transformers keeps of a located model besides its network; nothing if it is in another format."""
    is_other = openai.is_prefix(path) or (path.suffix in HDF5_SUFFIXES and find_hdf5_format(path) is not huggingface)
    return NOTHING_KEPT if is_other else read_settings(path)


def write_checkpoint(
    path: str | Path,
    config: GPT2Config,
    tensors: Mapping[str, Any],
    end_of_text: int | None = None,
    kept: TransformersSettings = NOTHING_KEPT,
) -> Path:
    """Writes a checkpoint atomically, with its hyper-parameters inside or beside it.

    Args:
        path: `NAME.h5`, `NAME.safetensors` (`FOLDER/model.safetensors` makes a folder that transformers opens), or a
            TF1 checkpoint as prefix `NAME.ckpt` or as a folder.
        tensors: float32 arrays by OpenAI's names, as in `tensor_shapes`.
        end_of_text: the id that ends a text, which transformers wants to know; by default the last.
        kept: what transformers keeps of the model besides its network, for Hugging Face's format.

    Returns:
        The file, or the prefix of a TF1 checkpoint.

    Raises InputError if the path names no format, or if a file cannot be written; and ValueError for other tensors.
    """
    path = Path(path)
    check_format(path)
    if tensors.keys() != tensor_shapes(config).keys():
        different = sorted(tensors.keys() ^ tensor_shapes(config).keys())
        raise ValueError(f"{path}: these are not the tensors of a GPT-2: {', '.join(different)}")
    if path.suffix in HDF5_SUFFIXES:
        hdf5.write(path, config, tensors)
    elif path.suffix == SAFETENSORS:
        huggingface.write(path, config, tensors, end_of_text, kept)
    else:
        path = path if path.suffix else path / "model.ckpt"
        openai.write(path, config, tensors)
    return path


def check_format(path: Path) -> None:
    """Raises InputError unless a path names a format to write."""
    if path.suffix not in (*HDF5_SUFFIXES, SAFETENSORS, ".ckpt", ""):
        raise InputError(f"{path}: unknown format {path.suffix}: end the name in .h5, .safetensors or .ckpt")
