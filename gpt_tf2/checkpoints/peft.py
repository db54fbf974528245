"""peft's format of LoRA adapters: a folder with `adapter_config.json` and `adapter_model.safetensors`.

peft keeps each factor as torch's linear layers do, [outputs, inputs], also for GPT-2's Conv1D, so both are transposed.
`fan_in_fan_out` concerns the matrix of the base alone. The tensors that are there say which matrices are adapted, so
`target_modules` need not be matched.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from gpt_tf2.checkpoints.adapters import Adapters, Base, check_alpha, describe_base, find_beside
from gpt_tf2.checkpoints.released import find_size
from gpt_tf2.checkpoints.shards import list_tensors
from gpt_tf2.config import SIZES, GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.damage import explain_damage
from gpt_tf2.storage.files import atomic_write, write_text
from gpt_tf2.storage.json_text import parse_json, read_json

FILE, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
FILES = (FILE, "adapter_model.bin")  # the second by versions of 2023
NOTES = "gpt_tf2"  # the key in the file's metadata of what `describe_base` returns
FIX = "save the adapters again (save_pretrained)"
MERGE = "merge them with peft (merge_and_unload), and give the model that you save"
# The names of the released models at Hugging Face, also with the owner before them → their sizes.
HUB = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}
OWNER = "openai-community/"
FACTOR = re.compile(r"(?:[\w.]*\.)?h\.([0-9]+)\.(attn|mlp)\.(c_attn|c_proj|c_fc)\.lora_([AB])\.weight")

# Settings that are read elsewhere, or that do not change what the adapters compute.
KNOWN = {
    *("peft_type", "base_model_name_or_path", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out"),
    *("inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config"),
    *("megatron_core", "merge_weights", "peft_version", "qalora_group_size", "revision", "target_modules"),
    *("task_type", "velora_config"),
}
HARMLESS = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "eva", "orthogonal")}
# What the other settings ask for.
MEANINGS = {
    "bias": "trained biases",
    "init_lora_weights": "a start that changes the base model",
    "layer_replication": "repeated blocks",
    "lora_bias": "factors with a bias",
    "modules_to_save": "modules trained whole",
    "trainable_token_indices": "trained tokens",
    "use_dora": "DoRA",
}
# Patterns that no text of a module's length takes long to match: no group is repeated, and few parts are.
REPEATED_GROUP, REPEATS, MOST_REPEATS = re.compile(r"\)\s*[*+?{]"), re.compile(r"[*+?{]"), 4


def open_adapters(path: Path) -> Adapters:
    """Opens a folder's `adapter_model.safetensors` or `adapter_model.bin`.

    Raises InputError if a file is missing or damaged, or if the adapters are not plain LoRA of the blocks' matrices.
    """
    settings = read_settings(path.with_name(SETTINGS))
    stored = list_tensors(path)
    keys: dict[str, str] = {}
    for key, tensor in stored.items():
        match = FACTOR.fullmatch(key)
        if not match:
            raise InputError(f"{path}: tensor {key:.200} is no LoRA factor of a matrix in GPT-2's blocks: {MERGE}")
        if not tensor.is_float:
            raise InputError(f"{path}: tensor {key} is {tensor.dtype}: save it as float32, float16 or bfloat16")
        block, part, matrix, letter = match.groups()
        if keys.setdefault(f"h{block}/{part}/{matrix}/lora_{letter.lower()}", key) != key:
            raise InputError(f"{path}: tensor {key} is there twice, under two prefixes: {FIX}")
    shapes = {name: stored[key].shape[::-1] for name, key in keys.items()}

    def read(name: str) -> np.ndarray:
        return stored[keys[name]].read().T

    def scale(name: str) -> float:
        return find_scale(path.with_name(SETTINGS), settings, name, shapes[name][1])

    notes = read_notes(path)
    return Adapters(path, list_bases(path, settings, notes), notes, shapes, read, scale, FIX)


def read_settings(path: Path) -> dict[str, Any]:
    """The content of an `adapter_config.json`. Raises InputError if it is malformed, or not that of plain LoRA."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: not a JSON object: {FIX}")
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{path}: peft_type is {kind!r:.60}, but gpt-tf2 reads LORA alone: {MERGE}")
    for key, value in settings.items():
        if key in KNOWN or not value or value in HARMLESS.get(key, ()):
            continue
        meaning = MEANINGS.get(key, "more than plain LoRA")
        raise InputError(f"{path}: {key:.60} is {value!r:.60}, {meaning}, which gpt-tf2 does not read: {MERGE}")
    return settings


def read_notes(path: Path) -> dict[str, str]:
    """What gpt-tf2 wrote of the base. Raises InputError if it is damaged."""
    if path.name != FILE:
        return {}
    with explain_damage(f"{path}: not a whole safetensors file", FIX), safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    notes = parse_json(metadata.get(NOTES, "{}"), f"{path}: {NOTES}", FIX)
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise InputError(f"{path}: {NOTES} is damaged: {FIX}")
    return notes


def list_bases(path: Path, settings: Mapping[str, Any], notes: Mapping[str, str]) -> tuple[str, ...]:
    """Where to look for the base: as seen from the adapters, in the working folder, and as a released model."""
    name = settings.get("base_model_name_or_path") or ""
    if not isinstance(name, str) or "\0" in name:
        raise InputError(f"{path.with_name(SETTINGS)}: base_model_name_or_path is {name!r:.60}: give a name or a path")
    named = [os.path.normpath(path.parent / name), name] if name else []
    size = HUB.get(name.removeprefix(OWNER))
    released = [f"{size}/model.ckpt"] if size else []  # which `find_size` knows
    return (*find_beside(path, notes), *named, *released, *([notes["base"]] if "base" in notes else []))


def find_scale(source: Path, settings: Mapping[str, Any], name: str, rank: int) -> float:
    """What multiplies the product of the factors with this name and rank: α / rank, or α / √rank in rsLoRA.

    Raises InputError if the settings in the file `source` are malformed, or of another rank.
    """
    block, part, matrix, _ = name.split("/")
    module = f"transformer.h.{block[1:]}.{part}.{matrix}"
    declared = find_by_pattern(source, settings, "rank_pattern", module, settings.get("r", 8))
    if declared != rank:
        raise InputError(f"{source}: the rank of {module} is {declared!r:.60}, but its factors have {rank}: {FIX}")
    alpha = find_by_pattern(source, settings, "alpha_pattern", module, settings.get("lora_alpha", 8))
    number = check_alpha(alpha, f"{source}: lora_alpha", FIX)  # Kalajdzievski 2023, section 3, for rsLoRA
    return number / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def find_by_pattern(source: Path, settings: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name ends in; the default if there is none."""
    patterns = settings.get(key) or {}
    if not isinstance(patterns, dict):
        raise InputError(f"{source}: {key} is not a JSON object: {FIX}")
    for pattern, value in patterns.items():
        if REPEATED_GROUP.search(pattern) or len(REPEATS.findall(pattern)) > MOST_REPEATS:
            raise InputError(f"{source}: {key}: {pattern!r:.60} may take long to match: list the modules instead")
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except (re.error, RecursionError, OverflowError):
            raise InputError(f"{source}: {key}: {pattern!r:.60} is no regular expression: {FIX}") from None
    return default


def write(path: Path, config: GPT2Config, base: Base, adapters: Mapping[str, Any], alpha: float | None = None) -> None:
    """Writes adapters with what tells their base from other models: `adapter_config.json`, then the tensors.

    Args:
        path: `FOLDER/adapter_model.safetensors`.
        adapters: the factors by name, as in `adapter_shapes`, all of one rank.
        alpha: the rank by default.

    Raises InputError if a file cannot be written.
    """
    factors = {peft_name(name): np.ascontiguousarray(np.asarray(tensor, "<f4").T) for name, tensor in adapters.items()}
    rank = next(np.shape(tensor)[1] for name, tensor in adapters.items() if name.endswith("lora_a"))
    alpha = rank if alpha is None else alpha
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name_base(base.path, config),
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({".".join(name.split("/")[1:3]) for name in adapters}),
        "fan_in_fan_out": True,
        "bias": "none",
        "inference_mode": True,
    }
    write_text(path.with_name(SETTINGS), json.dumps(settings, indent=2) + "\n")
    notes = {"format": "pt", NOTES: json.dumps(describe_base(path, config, base))}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(factors, notes))


def peft_name(name: str) -> str:
    """peft's name of a factor.

    Example:
        >>> peft_name("h0/attn/c_attn/lora_a")
        'base_model.model.transformer.h.0.attn.c_attn.lora_A.weight'
    """
    block, part, matrix, factor = name.split("/")
    return f"base_model.model.transformer.h.{block[1:]}.{part}.{matrix}.lora_{factor[-1].upper()}.weight"


def name_base(path: Path, config: GPT2Config) -> str:
    """What transformers calls a base: the released models by their names, a folder of Hugging Face's by its path."""
    size = find_size(str(path))
    if size and SIZES[size] == config:
        return OWNER + next(name for name, named in HUB.items() if named == size)
    return str(path.parent if path.name == "model.safetensors" else path)
