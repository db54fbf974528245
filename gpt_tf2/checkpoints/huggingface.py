"""Hugging Face's format: files of tensors with transformers' names (see `shards.py`), and `config.json` beside them."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.checkpoints import tf_transformers
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.companions import companion_folder, find_companion
from gpt_tf2.checkpoints.shards import list_tensors
from gpt_tf2.checkpoints.stored import StoredTensor
from gpt_tf2.checkpoints.transformers_settings import NOTHING_KEPT, TransformersSettings, make_files
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write, write_text
from gpt_tf2.storage.json_text import read_json

# OpenAI's name of a hyper-parameter → transformers'; n_ctx is its name in files of before 2021.
CONFIG_NAMES = {
    "n_vocab": ("vocab_size",),
    "n_ctx": ("n_positions", "max_position_embeddings", "n_ctx"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_layer": ("n_layer", "num_hidden_layers"),
}
# transformers' settings → the value that gives OpenAI's network.
FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
TIED = "tie_word_embeddings"
HEAD = "lm_head.weight"  # the output matrix, which most models share with the token embedding, and most files leave out
# What torch.compile, DistributedDataParallel, a program's own class and GPT2LMHeadModel put into the names.
WRAPPERS = {"_orig_mod", "module", "model", "transformer"}
MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # the causal mask, which old files include


def read_config(path: Path) -> GPT2Config | None:
    """The hyper-parameters in the `config.json` beside a checkpoint; None if that file is missing.

    Raises InputError if the file is malformed, or if it describes another network than OpenAI's.
    """
    config_json = find_companion(path, "config.json")
    if config_json is None:
        return None
    values = read_json(config_json)
    if not isinstance(values, dict) or values.get("model_type") != "gpt2":
        raise InputError(f"{config_json}: model_type is not gpt2: give the config.json of a GPT-2")
    for key, expected in FIXED.items():
        if values.get(key, expected) != expected:
            difference = f"{key} is {values[key]!r}, but OpenAI's network has {expected!r}"
            raise InputError(f"{config_json}: {difference}: give a checkpoint of that network")
    renamed = {
        name: next(values[key] for key in keys if key in values)
        for name, keys in CONFIG_NAMES.items()
        if any(key in values for key in keys)
    }
    tied = values.get(TIED) is not False and is_tied(list_tensors(path))
    return GPT2Config.from_dict(renamed | {"tied": tied}, str(config_json))


def is_tied(stored: Mapping[str, StoredTensor]) -> bool:
    """Whether a model has no output matrix of its own, as transformers decides it."""
    tensors = {unwrap(key): tensor for key, tensor in stored.items()}
    return HEAD not in tensors or "wte.weight" not in tensors or tensors[HEAD].equals(tensors["wte.weight"])


def unwrap(key: str) -> str:
    """A tensor's name without what tools put into it.

    Example:
        >>> unwrap("_orig_mod.module.transformer.h.0.ln_1.weight")
        'h.0.ln_1.weight'
    """
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def transformers_name(name: str) -> str:
    """transformers' name of a tensor, from OpenAI's.

    Example:
        >>> transformers_name("h0/attn/c_attn/w")
        'transformer.h.0.attn.c_attn.weight'
    """
    if name == "lm_head":
        return HEAD
    name = re.sub(r"^h(\d+)/", r"h.\1.", name).replace("/", ".")
    if name in ("wte", "wpe"):
        return f"transformer.{name}.weight"
    layer, letter = name.rsplit(".", 1)
    return f"transformer.{layer}.{'bias' if letter == 'b' else 'weight'}"


def openai_name(key: str) -> str:
    """OpenAI's name of a tensor, from transformers', with or without prefixes: released files have none.

    Example:
        >>> openai_name("h.0.ln_1.weight")
        'h0/ln_1/g'
    """
    if key.endswith(tf_transformers.END):
        return tf_transformers.openai_name(key)
    layer, _, kind = unwrap(key).rpartition(".")
    if layer in ("wte", "wpe", "lm_head"):
        return layer
    letter = "b" if kind == "bias" else "g" if "ln_" in layer else "w"
    return re.sub(r"^h\.(\d+)\.", r"h\1.", f"{layer}.{letter}").replace(".", "/")


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a file of tensors, or the index of several. Biases lose the leading dimension 1 that TF classes give them.

    Raises InputError if a file is missing or truncated, holds other numbers than floats, or if the config.json is not
    a GPT-2's.
    """
    config = read_config(path)
    stored = list_tensors(path)
    tied = config.tied if config else is_tied(stored)
    keys: dict[str, str] = {}
    for key, tensor in stored.items():
        name = openai_name(key)
        if MASK.fullmatch(unwrap(key)):
            continue
        if not tensor.is_float:
            raise InputError(
                f"{tensor.file}: tensor {key} is {tensor.dtype}: save the model as float32, float16 or bfloat16"
            )
        if keys.setdefault(name, key) != key:
            raise InputError(f"{tensor.file}: tensors {keys[name]} and {key} are the same one: save it once")
    if tied and "lm_head" in keys:
        keys.setdefault("wte", keys["lm_head"])  # of two that share their memory, some programs save the first by name
        del keys["lm_head"]
    shapes = {name: stored[key].shape for name, key in keys.items()}
    for name, shape in shapes.items():
        if name.endswith("/b") and len(shape) == 2 and shape[0] == 1:
            shapes[name] = shape[1:]
    return Checkpoint(path, shapes, lambda name: stored[keys[name]].read().reshape(shapes[name]), config)


def describe(
    config: GPT2Config, end_of_text: int | None = None, kept: TransformersSettings = NOTHING_KEPT
) -> dict[str, str]:
    """The contents of `config.json` and `generation_config.json`, by their names; see `write`."""
    network = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "dtype": "float32"} | FIXED
    network |= {keys[0]: getattr(config, name) for name, keys in CONFIG_NAMES.items()} | {TIED: config.tied}
    return make_files(kept, network, config.n_vocab - 1 if end_of_text is None else end_of_text)


def write(
    path: Path,
    config: GPT2Config,
    tensors: Mapping[str, Any],
    end_of_text: int | None = None,
    kept: TransformersSettings = NOTHING_KEPT,
) -> None:
    """Writes `config.json`, then the tensors one by one; the library's own writer would copy all of them in memory.

    Args:
        end_of_text: the id that ends a text, by default the last.
        kept: what transformers keeps of the model besides its network.

    Raises InputError if a file cannot be written.
    """
    for name, content in describe(config, end_of_text, kept).items():
        write_text(companion_folder(path) / name, content)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0  # in bytes
    for name, shape in tensor_shapes(config).items():
        size = 4 * int(np.prod(shape))
        header[transformers_name(name)] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in tensor_shapes(config):
            file.write(np.ascontiguousarray(tensors[name], "<f4").data)
