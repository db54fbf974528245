"""What transformers keeps of a model besides its network, in `config.json` and `generation_config.json`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_tf2.checkpoints.companions import find_companion
from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import read_json

FILES = CONFIG, GENERATION = "config.json", "generation_config.json"
# Of the files as they were, not of the model: how it was stored, and code that lay beside it.
DROPPED = {"dtype", "torch_dtype", "transformers_version", "quantization_config", "auto_map"}
# Other names of the network's own settings.
ALIASES = {"n_ctx", "max_position_embeddings", "hidden_size", "num_attention_heads", "num_hidden_layers"}


@dataclasses.dataclass(frozen=True)
class TransformersSettings:
    """The settings in the two files, without those of the network, such as dropout rates and the id of the padding."""

    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)


NOTHING_KEPT = TransformersSettings()


def read_settings(path: Path) -> TransformersSettings:
    """The settings beside a checkpoint of Hugging Face's. Raises InputError if a file is malformed."""
    return TransformersSettings(read_kept(path, CONFIG), read_kept(path, GENERATION))


def read_kept(path: Path, name: str) -> dict[str, Any]:
    """What is kept of a file beside a checkpoint."""
    file = find_companion(path, name)
    values = read_json(file) if file else {}
    if not isinstance(values, dict):
        raise InputError(f"{file}: not an object: fetch the file again, or delete it")
    return {key: value for key, value in values.items() if key not in DROPPED | ALIASES and not key.startswith("_")}


def make_files(kept: TransformersSettings, network: Mapping[str, Any], end_of_text: int) -> dict[str, str]:
    """The contents of the files, by their names.

    Args:
        kept: what they had beside the model's base. Its `eos_token_id` stays if a text ends with it here, too.
        network: the settings of the network.
        end_of_text: the id that ends a text.
    """
    config: dict[str, Any] = {**network, "bos_token_id": end_of_text, **kept.config, **network}
    config["eos_token_id"] = choose_end(kept.config, end_of_text)
    ids: dict[str, Any] = {key: config[key] for key in ("bos_token_id", "pad_token_id") if key in config}
    generation: dict[str, Any] = {
        **ids,
        **kept.generation,
        "eos_token_id": choose_end({**config, **kept.generation}, end_of_text),
    }
    return {name: json.dumps(values, indent=2) + "\n" for name, values in ((CONFIG, config), (GENERATION, generation))}


def choose_end(kept: Mapping[str, Any], end_of_text: int) -> Any:
    """The id or ids that end a text: those that are kept, if the end of text is among them.

    Example:
        >>> choose_end({"eos_token_id": [7, 9]}, 9), choose_end({"eos_token_id": 7}, 9)
        ([7, 9], 9)
    """
    ids = kept.get("eos_token_id")
    return ids if end_of_text in (ids if isinstance(ids, list) else [ids]) else end_of_text
