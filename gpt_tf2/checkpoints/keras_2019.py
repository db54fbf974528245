"""The `.h5` files of the scripts of 2019: a Keras model with one layer for each part of a block.

`model.save` of tf.keras 2.0 wrote the layers' settings as JSON, the weights as `model_weights/LAYER/LAYER/NAME:0`, and
the optimizer's variables, which are not read. Queries, keys and values have a matrix each.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.hdf5 import HDF5File, open_hdf5
from gpt_tf2.storage.json_text import parse_json

# The layer of a block and its variable → OpenAI's name within the block.
BLOCK_NAMES = {
    ("MultiHeadAtt-Norm", "gamma"): "ln_1/g",
    ("MultiHeadAtt-Norm", "beta"): "ln_1/b",
    ("MultiHeadAtt", "Wo"): "attn/c_proj/w",
    ("MultiHeadAtt", "bo"): "attn/c_proj/b",
    ("FeedForward-Norm", "gamma"): "ln_2/g",
    ("FeedForward-Norm", "beta"): "ln_2/b",
    ("FeedForward", "W1"): "mlp/c_fc/w",
    ("FeedForward", "b1"): "mlp/c_fc/b",
    ("FeedForward", "W2"): "mlp/c_proj/w",
    ("FeedForward", "b2"): "mlp/c_proj/b",
}
# OpenAI's name within the block → the variables that it joins.
JOINED = {"attn/c_attn/w": ("Wq", "Wk", "Wv"), "attn/c_attn/b": ("bq", "bk", "bv")}
END_NAMES = {
    ("Embed-Token", "embeddings"): "wte",
    ("Embed-Token-Pos", "embeddings"): "wpe",
    ("Norm", "gamma"): "ln_f/g",
    ("Norm", "beta"): "ln_f/b",
}
VARIABLE = re.compile(r"(?:model_weights/)?(?P<layer>[^/]+)/(?:.*/)?(?P<name>[^/]+):0")


def is_format(file: HDF5File) -> bool:
    """Whether a file has such layers."""
    return any(find_variable(name) == ("Embed-Token", "embeddings") for name in file.datasets)


def find_variable(key: str) -> tuple[str, str] | None:
    """The layer and the name of a variable in a file; None for another dataset.

    Example:
        >>> find_variable("model_weights/Encode-0-MultiHeadAtt/Encode-0-MultiHeadAtt/Encode-0-MultiHeadAtt_Wq:0")
        ('Encode-0-MultiHeadAtt', 'Wq')
    """
    match = VARIABLE.fullmatch(key)
    return (match["layer"], match["name"].removeprefix(f"{match['layer']}_")) if match else None


def find_name(layer: str, variable: str) -> str | None:
    """OpenAI's name of the tensor that a variable is, or is a part of; None if it is no part of a GPT-2."""
    block = re.fullmatch(r"Encode-(\d+)-(.+)", layer)
    if not block:
        return END_NAMES.get((layer, variable))
    name = BLOCK_NAMES.get((block[2], variable))
    if block[2] == "MultiHeadAtt" and not name:
        name = next((joined for joined, parts in JOINED.items() if variable in parts), None)
    return f"h{block[1]}/{name}" if name else None


def list_parts(file: HDF5File) -> dict[str, list[str]]:
    """The datasets that each tensor is joined of, by OpenAI's name, or by its own name if it is none of GPT-2's.

    Raises InputError if queries, keys and values are not three of one shape, or if a tensor is there twice.
    """
    parts: dict[str, dict[str, str]] = {}
    for key in file.datasets:
        layer, variable = find_variable(key) or ("", "")
        datasets = parts.setdefault(find_name(layer, variable) or key, {})
        if variable in datasets:
            raise InputError(f"{file.path}: {key} is there twice: {file.fix}")
        datasets[variable] = key
    for name, datasets in parts.items():
        joined = JOINED.get(name.partition("/")[2])
        if joined:
            shapes = {file.datasets[key].shape for key in datasets.values()}
            if set(datasets) != set(joined) or len(shapes) > 1 or () in shapes:
                raise InputError(f"{file.path}: {name} is not {', '.join(joined)} of one shape: {file.fix}")
            parts[name] = {variable: datasets[variable] for variable in joined}
    return {name: list(datasets.values()) for name, datasets in parts.items()}


def list_shapes(file: HDF5File, parts: dict[str, list[str]]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, as `list_parts` joins it."""
    shapes = {}
    for name, keys in parts.items():
        shape = file.datasets[keys[0]].shape
        shapes[name] = (*shape[:-1], len(keys) * shape[-1]) if len(keys) > 1 else shape
    return shapes


def read_config(path: Path) -> GPT2Config | None:
    """The hyper-parameters: heads from the layers' settings, the others from the shapes of the tensors.

    None for a file of weights alone (`save_weights`), which does not say how many heads there are.

    Raises InputError if the file is damaged.
    """
    file = open_hdf5(path)
    return parse_config(file, list_shapes(file, list_parts(file)))


def parse_config(file: HDF5File, shapes: dict[str, tuple[int, ...]]) -> GPT2Config | None:
    """The hyper-parameters of an opened file with tensors of these shapes."""
    if "model_config" not in file.attributes:
        return None
    settings = parse_json(file.attributes["model_config"], f"{file.path}: model_config", file.fix)
    heads = list(find_heads(settings))
    ends = [shapes.get(name, ()) for name in ("wte", "wpe")]
    if len(set(heads)) != 1 or any(len(shape) != 2 for shape in ends):
        raise InputError(f"{file.path}: model_config is not that of a GPT-2: {file.fix}")
    blocks = {name.partition("/")[0] for name in shapes if re.match(r"h\d+/", name)}
    (n_vocab, n_embd), (n_ctx, _) = ends
    values = {"n_vocab": n_vocab, "n_ctx": n_ctx, "n_embd": n_embd, "n_head": heads[0], "n_layer": len(blocks)}
    return GPT2Config.from_dict(values, str(file.path))


def find_heads(settings: Any) -> Iterator[int]:
    """The number of heads of each attention layer in a model's settings."""
    model = settings.get("config") if isinstance(settings, dict) else None
    layers = model.get("layers") if isinstance(model, dict) else None
    for layer in layers if isinstance(layers, list) else []:
        config = layer.get("config") if isinstance(layer, dict) else None
        heads = config.get("head_num") if isinstance(config, dict) else None
        if isinstance(heads, int):
            yield heads


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a file. Raises InputError if it is damaged, or if another program wrote it."""
    file = open_hdf5(path)
    parts = list_parts(file)
    shapes = list_shapes(file, parts)

    def read(name: str) -> np.ndarray:
        arrays = [file.read_float32(key) for key in parts[name]]
        return np.concatenate(arrays, axis=-1) if len(arrays) > 1 else arrays[0]

    return Checkpoint(path, shapes, read, parse_config(file, shapes))
