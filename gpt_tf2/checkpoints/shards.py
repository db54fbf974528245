"""A model of Hugging Face's in one file or several: which files they are, and the tensors in them."""

import re
from pathlib import Path

from gpt_tf2.checkpoints import safetensors_files, tf_transformers, torch_files
from gpt_tf2.checkpoints.stored import StoredTensor
from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import read_json

INDEX = ".index.json"
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.safetensors|\.bin|\.h5)")  # `model-00001-of-00003.safetensors`


def find_index(shard: Path) -> Path | None:
    """The index of the files that one of them, `shard`, belongs to; None for a file that is a whole model.

    Example:
        >>> find_index(Path("hf/model-00001-of-00003.safetensors")).as_posix()
        'hf/model.safetensors.index.json'
    """
    match = SHARD.fullmatch(shard.name)
    return shard.with_name(f"{match[1]}{match[2]}{INDEX}") if match else None


def read_map(index: Path) -> dict[str, Path]:
    """Each tensor's file, as an index says. All of them are in the index's folder.

    Raises InputError if the index is malformed, or if a file is missing.
    """
    fix = "copy or download the model again"
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise InputError(f"{index}: no weight_map in it: {fix}")
    for name in set(map(str, names.values())):
        if not re.fullmatch(r"[^/\\]+\.(safetensors|bin|h5)", name):
            raise InputError(f"{index}: {name[:80]} is no file beside it: {fix}")
        if not index.with_name(name).is_file():
            raise InputError(f"{index.with_name(name)}: no such file, but {index.name} names it: copy or download it")
    return {key: index.with_name(str(name)) for key, name in names.items()}


def list_files(path: Path) -> list[Path]:
    """The files of a model at `path`, a file of tensors or an index. Raises InputError if one is missing."""
    return [path, *sorted(set(read_map(path).values()))] if path.name.endswith(INDEX) else [path]


def list_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of the model at `path` by the files' names.

    Raises InputError if a file is missing or damaged, or if it lacks a tensor that the index says it has.
    """
    if not path.name.endswith(INDEX):
        reader = {".bin": torch_files, ".h5": tf_transformers}.get(path.suffix, safetensors_files)
        return reader.list_tensors(path)
    files = read_map(path)
    tensors = {file: list_tensors(file) for file in sorted(set(files.values()))}
    chosen = {}
    for key, file in files.items():
        # An index of TF classes begins a name with the model's, which the files leave out.
        tensor = tensors[file].get(key) or tensors[file].get(key.partition("/")[2])
        if tensor is None:
            raise InputError(f"{file}: no tensor {key[:80]}, but {path.name} says so: copy or download both again")
        chosen[key] = tensor
    return chosen
