"""Hugging Face's format: `model.safetensors` with transformers' names, `config.json` beside it."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to numpy
import numpy as np
from safetensors import SafetensorError, safe_open

from gpt_tf2.checkpoints.checkpoint import Checkpoint, beside, home
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write, read_json, write_text

# transformers' key → the only value that OpenAI's graph has.
FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
CONFIG_NAMES = {
    "vocab_size": "n_vocab",
    "n_positions": "n_ctx",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
# The causal mask, which old files carry, and the output layer, which is wte.
NOT_WEIGHTS = re.compile(r"(h\.\d+\.attn\.(masked_)?bias|lm_head\.weight)$")


def config_of(path: Path) -> GPT2Config:
    """The hyper-parameters in a `config.json`. Raises InputError if it describes another network than OpenAI's."""
    values = read_json(path)
    if not isinstance(values, dict) or values.get("model_type") != "gpt2":
        raise InputError(f"{path}: model_type is not gpt2: give the config.json of a GPT-2")
    for key, value in FIXED.items():
        if values.get(key, value) != value:
            raise InputError(f"{path}: {key} is {values[key]!r}, GPT-2 has {value!r}: this network cannot be run here")
    renamed = {ours: values[theirs] for theirs, ours in CONFIG_NAMES.items() if theirs in values}
    return GPT2Config.from_dict(renamed, str(path))


def transformers_name(name: str) -> str:
    """`h0/attn/c_attn/w` → `transformer.h.0.attn.c_attn.weight`."""
    name = re.sub(r"^h(\d+)/", r"h.\1.", name).replace("/", ".")
    if name in ("wte", "wpe"):
        return f"transformer.{name}.weight"
    stem, letter = name.rsplit(".", 1)
    return f"transformer.{stem}.{'bias' if letter == 'b' else 'weight'}"


def openai_name(key: str) -> str:
    """The inverse; the released files leave out the prefix that transformers writes."""
    stem, _, kind = key.removeprefix("transformer.").rpartition(".")
    if stem in ("wte", "wpe"):
        return stem
    letter = "b" if kind == "bias" else "g" if "ln_" in stem else "w"
    return re.sub(r"^h\.(\d+)\.", r"h\1.", f"{stem}.{letter}").replace(".", "/")


def open_checkpoint(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="np") as file:
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}): copy or fetch it again") from None
    config_json = beside(path, "config.json")
    config = config_of(config_json) if config_json else None
    keys = {openai_name(key): key for key in stored if not NOT_WEIGHTS.search(key)}
    shapes = {name: stored[key] for name, key in keys.items()}

    def read(name: str) -> np.ndarray:
        # Opened for each tensor: an open file keeps every page that was read mapped into memory.
        try:
            with safe_open(path, framework="np") as file:
                return file.get_tensor(keys[name]).astype("float32", copy=False)
        except (OSError, SafetensorError, TypeError) as error:
            raise InputError(f"{path}: tensor {keys[name]} cannot be read ({error}): copy or fetch it again") from None

    return Checkpoint(path, shapes, read, config)


def write(path: Path, config: GPT2Config, tensors: Mapping[str, Any]) -> None:
    """Writes `config.json`, then the tensors one by one (the library's own writer holds a second copy of all)."""
    theirs = {theirs: getattr(config, ours) for theirs, ours in CONFIG_NAMES.items()}
    end = {"bos_token_id": config.n_vocab - 1, "eos_token_id": config.n_vocab - 1}
    kind = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "dtype": "float32"}
    write_text(home(path) / "config.json", json.dumps(kind | theirs | FIXED | end, indent=2) + "\n")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
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
