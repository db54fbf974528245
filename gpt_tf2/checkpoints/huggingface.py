"""Hugging Face's format: `model.safetensors` with transformers' tensor names, and `config.json` beside it."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to numpy
import numpy as np
from safetensors import safe_open

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.companions import companion_folder, find_companion
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.storage.damage import explain_damage
from gpt_tf2.storage.files import atomic_write, write_text
from gpt_tf2.storage.json_text import read_json

# transformers' name of a hyper-parameter → OpenAI's.
CONFIG_NAMES = {
    "vocab_size": "n_vocab",
    "n_positions": "n_ctx",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
# transformers' settings → the value that gives OpenAI's network.
FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
HEAD = "lm_head.weight"  # the output layer, which is wte
# The output layer, and the causal mask, which old files include.
NOT_WEIGHTS = re.compile(rf"(transformer\.)?h\.\d+\.attn\.(masked_)?bias|{re.escape(HEAD)}")
FLOATS = ("F32", "F16", "BF16", "F64")
MOST_HEADER = 1 << 24  # bytes; that of 1558M has 60 kB
ROWS = 4096  # of a matrix, compared at a time


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
    renamed = {name: values[key] for key, name in CONFIG_NAMES.items() if key in values}
    return GPT2Config.from_dict(renamed, str(config_json))


def transformers_name(name: str) -> str:
    """transformers' name of a tensor, from OpenAI's.

    Example:
        >>> transformers_name("h0/attn/c_attn/w")
        'transformer.h.0.attn.c_attn.weight'
    """
    name = re.sub(r"^h(\d+)/", r"h.\1.", name).replace("/", ".")
    if name in ("wte", "wpe"):
        return f"transformer.{name}.weight"
    layer, letter = name.rsplit(".", 1)
    return f"transformer.{layer}.{'bias' if letter == 'b' else 'weight'}"


def openai_name(key: str) -> str:
    """OpenAI's name of a tensor, from transformers', with or without its prefix: released files lack it.

    Example:
        >>> openai_name("h.0.ln_1.weight")
        'h0/ln_1/g'
    """
    layer, _, kind = key.removeprefix("transformer.").rpartition(".")
    if layer in ("wte", "wpe"):
        return layer
    letter = "b" if kind == "bias" else "g" if "ln_" in layer else "w"
    return re.sub(r"^h\.(\d+)\.", r"h\1.", f"{layer}.{letter}").replace(".", "/")


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a safetensors file.

    Raises InputError if it is truncated, holds other numbers than floats, or if its config.json is not a GPT-2's.
    """
    fix = "copy or download the file again"
    problem = f"{path}: not a whole safetensors file"
    with explain_damage(problem, fix):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > MOST_HEADER:
            raise InputError(f"{problem} (a header of {size:,} bytes): {fix}")
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            stored = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    keys: dict[str, str] = {}
    for key, (_, dtype) in stored.items():
        if NOT_WEIGHTS.fullmatch(key):
            continue
        if dtype not in FLOATS:
            raise InputError(f"{path}: tensor {key} is {dtype}: save the model as float32, float16 or bfloat16")
        if keys.setdefault(openai_name(key), key) != key:
            raise InputError(f"{path}: tensor {key} is there twice, with and without transformer.: save it once")

    def read(name: str) -> np.ndarray:
        # Opened for each tensor: an open file keeps every page that was read mapped into memory.
        key = keys[name]
        with explain_damage(f"{path}: tensor {key} cannot be read", fix), safe_open(path, framework="np") as file:
            if name == "wte" and HEAD in stored and not are_equal(file, key, HEAD):
                problem = f"{HEAD} differs from {key}, but OpenAI's network has one matrix for both"
                raise InputError(f"{path}: {problem}: give a checkpoint whose word embeddings are tied")
            return file.get_tensor(key).astype("float32", copy=False)

    return Checkpoint(path, {name: stored[key][0] for name, key in keys.items()}, read, read_config(path))


def are_equal(file: Any, key: str, other: str) -> bool:
    """Whether two matrices of an open file are equal, compared some rows at a time."""
    one, two = file.get_slice(key), file.get_slice(other)
    shape = one.get_shape()
    if two.get_shape() != shape or two.get_dtype() != one.get_dtype():
        return False
    ranges = [slice(start, min(start + ROWS, shape[0])) for start in range(0, shape[0], ROWS)]
    return all(np.array_equal(one[rows], two[rows]) for rows in ranges)


def write(path: Path, config: GPT2Config, tensors: Mapping[str, Any]) -> None:
    """Writes `config.json`, then the tensors one by one; the library's own writer would copy all of them in memory.

    Raises InputError if a file cannot be written.
    """
    kind = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "dtype": "float32"}
    shape_settings = {key: getattr(config, name) for key, name in CONFIG_NAMES.items()}
    end = {"bos_token_id": config.n_vocab - 1, "eos_token_id": config.n_vocab - 1}
    config_json = json.dumps(kind | shape_settings | FIXED | end, indent=2) + "\n"
    write_text(companion_folder(path) / "config.json", config_json)
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
