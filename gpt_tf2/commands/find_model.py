"""What `model` means in every command: a name in `models/`, a path, or what is downloaded.

That is a released size, or a model on the Hugging Face Hub.
"""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.checkpoints import openai
from gpt_tf2.checkpoints.companions import companion_folder, find_companion
from gpt_tf2.checkpoints.formats import (
    HDF5_SUFFIXES,
    SAFETENSORS,
    find_base,
    locate,
    open_adapters,
    read_config,
    try_to_locate,
)
from gpt_tf2.checkpoints.hub import find_cached, find_on_hub, is_on_hub, parse_name
from gpt_tf2.checkpoints.opened import choose_config
from gpt_tf2.checkpoints.released import (
    cached_folder,
    count_bytes,
    expected_size,
    find_server,
    find_size,
    is_downloaded,
    is_unfinished,
)
from gpt_tf2.checkpoints.shards import find_index
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.config import SIZES, GPT2Config
from gpt_tf2.errors import InputError

MODELS = Path("models")
FOLDERS = (MODELS, Path("output"))  # of own models


def find_model_path(model: str, offline: bool = False, base: str | None = None) -> Path:
    """The path of a model, for `open_model`. One that is not on this machine is downloaded if a server has it.

    So is the released model that adapters belong to.

    Args:
        model: a name in `models/`, a path, a released size, or `hf://owner/name[@revision]`.
        offline: whether to raise instead of downloading.
        base: another model that adapters belong to, so that the one that they name is not needed.

    Raises InputError if there is no such model, or if it cannot be downloaded.

    Example:
        >>> find_model_path("124M")  # doctest: +SKIP
        PosixPath('/home/ada/.cache/gpt-tf2/models/124M')
    """
    path = find_on_hub(parse_name(model), offline, print_to_stderr) if is_on_hub(model) else find_on_machine(model)
    if path:
        missing = None if base else find_missing_base(path)
        if missing:
            find_model_path(missing, offline)
        return path
    if model not in SIZES:
        raise explain_missing(model)
    if offline:
        fix = f"run gpt-tf2 download {model} where there is a network, or give a path"
        raise InputError(f"{model} is not on this machine: {fix}", "offline")
    return download_missing(model)


def find_model_and_base(model: str, base: str | None, offline: bool = False) -> tuple[Path, Path | None]:
    """The paths of a model and of the base that is given for its adapters; see `find_model_path`."""
    path = find_model_path(model, offline, base)
    if base and base not in SIZES and not is_on_hub(base) and not find_on_machine(base):
        raise explain_missing(base, "base")
    return path, find_model_path(base, offline) if base else None


def find_on_machine(model: str) -> Path | None:
    """The path of a model without a download, or None. The files of a download are not hashed again."""
    if is_on_hub(model):
        return find_cached(parse_name(model))
    named = [MODELS / model] if model == Path(model).name != "" else []
    for path in (*named, Path(model)) if model else ():
        if is_there(path) and not (model in SIZES and is_unfinished(path)):
            return path
    if model not in SIZES:
        return None
    cached = cached_folder(model)
    return cached if cached and is_downloaded(cached, expected_size(model, find_server())) else None


def find_missing_base(path: Path) -> str | None:
    """The released size whose adapters a file or folder holds, if that model is not on this machine."""
    located = try_to_locate(str(path))
    held = open_adapters(located) if located else None
    return find_size(held.bases[-1]) if held and held.bases and not find_base(held.bases) else None


def is_there(path: Path) -> bool:
    """Whether a path is a file, a folder, or the prefix of a TF1 checkpoint, which may be half moved to its place."""
    return path.exists() or openai.is_prefix(path) or openai.saved_folder(path).is_dir()


def download_missing(size: str) -> Path:
    """Downloads a released model into the user's cache folder, or to `models/` if it was begun there."""
    from gpt_tf2.commands.download import download_model  # here, as HTTP takes a moment to import

    folder = MODELS / size if is_unfinished(MODELS / size) else cached_folder(size)
    if folder is None:
        fix = "set XDG_CACHE_HOME to one, or give a path"
        raise InputError(f"{size} is not on this machine, which has no cache folder of this user: {fix}")
    print_to_stderr(f"downloading {size}, {count_bytes(SIZES[size]) / 1e9:.1f} GB, to {folder}")
    return download_model(size, folder, find_server())


def find_config(model: str) -> GPT2Config:
    """The hyper-parameters of a model, which need not be on this machine if it is a released size.

    A model on the hub is downloaded.

    Raises InputError if there is no such model, or no hyper-parameters.
    """
    path = find_model_path(model) if is_on_hub(model) else find_on_machine(model)
    if path is None:
        if model not in SIZES:
            raise explain_missing(model)
        return SIZES[model]
    path = locate(path)
    return choose_config(path, read_config(path), find_companion(path, "hparams.json"))


def name_model(model: str) -> str:
    """What files that are made from a model call it: the name of its folder, or of its file without the suffix.

    A file such as `model.safetensors` is called like its folder, which is the model's own.

    Example:
        >>> name_model("book.h5"), name_model("models/chats/model.safetensors"), name_model("hf://ada/boats@v2")
        ('book', 'chats', 'boats')
    """
    if is_on_hub(model):
        return parse_name(model).repo.rpartition("/")[2]
    path = find_on_machine(model) or Path(model)
    return Path(os.path.abspath(companion_folder(path))).name  # noqa: PTH100 - links keep their names


def list_own_models() -> Iterator[Path]:
    """Yields the models in `models/` and `output/`, but for the released ones, by the names of their files."""
    for folder in FOLDERS:
        paths = sorted(path for path in folder.glob("*") if not path.name.startswith(".") and not find_index(path))
        for path in paths:
            if path.suffix == openai.INDEX:
                yield path.with_suffix("")
            elif path.is_dir():
                if not (folder == MODELS and path.name in SIZES) and try_to_locate(str(path)):
                    yield path
            elif path.suffix in (*HDF5_SUFFIXES, SAFETENSORS):
                yield path


def explain_missing(model: str, setting: str = "model") -> InputError:
    """The error for a model that is not there, which names own models of nearly the same name."""
    names = {path.stem if path.is_file() else path.name: path for path in list_own_models()}
    near = difflib.get_close_matches(name_model(model), names, n=2)
    hint = f" (near: {', '.join(str(names[name]) for name in near)})" if near else ""
    return InputError(f"no such model{hint}: give {', '.join(SIZES)}, a path or hf://owner/name", setting, model)
