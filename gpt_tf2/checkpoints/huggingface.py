"""Hugging Face's format: `model.safetensors` with transformers' tensor names, and `config.json` beside it."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to numpy
import numpy as np
from safetensors import SafetensorError, safe_open

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.companions import companion_folder, find_companion
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write, read_json, write_text

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
# The causal mask, which old files include, and the output layer, which is wte.
NOT_WEIGHTS = re.compile(r"(h\.\d+\.attn\.(masked_)?bias|lm_head\.weight)$")


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
    """Opens a safetensors file. Raises InputError if it is truncated, or if its config.json is not a GPT-2's."""
    try:
        with safe_open(path, framework="np") as file:
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}): copy or download it again") from None
    keys = {openai_name(key): key for key in stored if not NOT_WEIGHTS.search(key)}

    def read(name: str) -> np.ndarray:
        # Opened for each tensor: an open file keeps every page that was read mapped into memory.
        try:
            with safe_open(path, framework="np") as file:
                return file.get_tensor(keys[name]).astype("float32", copy=False)
        except (OSError, SafetensorError, TypeError) as error:
            damage = f"tensor {keys[name]} cannot be read ({error})"
            raise InputError(f"{path}: {damage}: copy or download the file again") from None

    return Checkpoint(path, {name: stored[key] for name, key in keys.items()}, read, read_config(path))


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
