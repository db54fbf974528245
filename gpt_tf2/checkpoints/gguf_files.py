"""GPT-2s in GGUF files: their weights as a checkpoint, and their vocabulary."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.gguf_names import TokenKind, gguf_name, is_transposed
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.storage.gguf import GGUFFile
from gpt_tf2.tokenizer import END_OF_TEXT, Tokenizer
from gpt_tf2.vocabularies.openai import FLAGS, define

CONFIG_KEYS = {
    "n_ctx": "gpt2.context_length",
    "n_embd": "gpt2.embedding_length",
    "n_head": "gpt2.attention.head_count",
    "n_layer": "gpt2.block_count",
}
HEAD, EMBEDDING = gguf_name("lm_head"), gguf_name("wte")
FIX = "give a GGUF file of a GPT-2"


def open_checkpoint(file: GGUFFile) -> Checkpoint:
    """The weights of a file, with its hyper-parameters.

    Raises InputError if the file holds another network than OpenAI's, or is damaged.
    """
    config = read_config(file)
    names = {gguf_name(name): name for name in tensor_shapes(config)}
    stored = {key: tensor.shape for key, tensor in file.tensors.items() if not (key == HEAD and config.tied)}
    if strange := next((key for key in stored if key not in names), None):
        raise InputError(f"{file.path}: tensor {strange} is not part of this GPT-2: {FIX}")
    shapes = {names[key]: shape[::-1] if is_transposed(names[key]) else shape for key, shape in stored.items()}

    def read(name: str) -> np.ndarray:
        values = file.read(gguf_name(name))
        return np.ascontiguousarray(values.T) if is_transposed(name) else values

    checkpoint = Checkpoint(file.path, shapes, read, config)
    checkpoint.check(config)
    return checkpoint


def read_config(file: GGUFFile) -> GPT2Config:
    """The hyper-parameters of a file. Raises InputError if it holds another network."""
    fields = file.fields
    if fields.get("general.architecture") != "gpt2":
        kind = fields.get("general.architecture")
        raise InputError(f"{file.path}: its architecture is {str(kind)[:40]}, not gpt2: {FIX}")
    epsilon = fields.get("gpt2.attention.layer_norm_epsilon")
    if not isinstance(epsilon, float) or abs(epsilon - 1e-5) > 1e-10:
        raise InputError(f"{file.path}: layer_norm_epsilon is {epsilon}, but OpenAI's network has 1e-05: {FIX}")
    values = {name: fields[key] for name, key in CONFIG_KEYS.items() if key in fields}
    # Older files have the output matrix in any case, also if it is the token embedding.
    tied = HEAD not in file.tensors or (EMBEDDING in file.tensors and equals(file, HEAD, EMBEDDING))
    return GPT2Config.from_dict(values | {"n_vocab": len(list_tokens(file)), "tied": tied}, str(file.path))


def equals(file: GGUFFile, one: str, other: str) -> bool:
    """Whether two tensors hold the same numbers."""
    return file.tensors[one].shape == file.tensors[other].shape and np.array_equal(file.read(one), file.read(other))


def list_tokens(file: GGUFFile) -> list[str]:
    """The names of a file's tokens by their ids. Raises InputError if it has none."""
    tokens = file.fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"{file.path}: no vocabulary in it: {FIX}")
    return tokens


def read_vocabulary(file: GGUFFile) -> Tokenizer:
    """The vocabulary of a file.

    Raises InputError if it is no byte-level BPE that splits a text as OpenAI does, or damaged.
    """
    fields = file.fields
    model, splitter = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if (model, splitter) != ("gpt2", "gpt-2"):
        kind = f"{str(model)[:40]} with the splitter {str(splitter)[:40]}"
        raise InputError(f"{file.path}: its vocabulary is {kind}, not GPT-2's byte-level BPE: {FIX}")
    tokens = list_tokens(file)
    kinds = read_list(file, "token_type", int) or [int(TokenKind.NORMAL)] * len(tokens)
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        raise InputError(f"{file.path}: damaged (its tokens): fetch the file again")
    used = {name: id for id, (name, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != TokenKind.UNUSED}
    added: list[dict[str, Any]] = [
        {"id": id, "content": name, "special": kinds[id] == TokenKind.CONTROL} | FLAGS
        for name, id in used.items()
        if kinds[id] in (TokenKind.CONTROL, TokenKind.USER_DEFINED) and name
    ]
    pairs = [merge.partition(" ") for merge in read_list(file, "merges", str)]
    definition = define(used, [(left, right) for left, _, right in pairs], added)
    end = fields.get("tokenizer.ggml.eos_token_id", used.get(END_OF_TEXT))
    if type(end) is not int or not 0 <= end < len(tokens):
        raise InputError(f"{file.path}: no token ends a text (eos_token_id {end}): {FIX}")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokens[end]}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("tokenizer.json", definition), ("tokenizer_config.json", settings)):
            (Path(folder) / name).write_text(json.dumps(content), encoding="utf-8")
        try:
            return Tokenizer(Path(folder) / "tokenizer.json")
        except InputError as error:
            raise InputError(error.message.replace(f"{folder}/", f"{file.path}: its ")) from None


def read_list(file: GGUFFile, name: str, kind: type) -> list[Any]:
    """A list of the vocabulary's, empty if it is missing. Raises InputError if it holds something else."""
    items = file.fields.get(f"tokenizer.ggml.{name}", [])
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise InputError(f"{file.path}: damaged (tokenizer.ggml.{name}): fetch the file again")
    return items
