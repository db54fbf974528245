"""`tf_model.h5`, which transformers' TF classes wrote until transformers 5 dropped them; `config.json` beside it.

A Keras file of weights: a group for the main layer, and in it each variable under its name, such as
`transformer/tfgp_t2lm_head_model/transformer/h_._0/attn/c_attn/weight:0`.
"""

import re
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.huggingface import read_config as read_config  # of any file of transformers'
from gpt_tf2.errors import InputError
from gpt_tf2.storage.hdf5 import HDF5File, open_hdf5

VARIABLE = re.compile(
    r"(?:(?:.*/)?h_\._(?P<block>\d+)/|(?:.*/)?)"
    r"(?P<layer>wte|wpe|ln_[12f]|attn/c_attn|attn/c_proj|mlp/c_fc|mlp/c_proj)/"
    r"(?P<kind>weight|bias|gamma|beta|embeddings):0"
)
LETTERS = {"weight": "w", "bias": "b", "gamma": "g", "beta": "b"}


def is_format(file: HDF5File) -> bool:
    """Whether a file has such variables."""
    return any("h_._0/" in name for name in file.datasets)


def openai_name(name: str) -> str:
    """OpenAI's name of a tensor; the file's own if it is none of GPT-2's.

    Example:
        >>> openai_name("transformer/tfgp_t2lm_head_model/transformer/h_._0/ln_1/gamma:0")
        'h0/ln_1/g'
    """
    match = VARIABLE.fullmatch(name)
    if not match:
        return name
    block, layer = f"h{match['block']}/" if match["block"] else "", match["layer"]
    return layer if layer in ("wte", "wpe") else f"{block}{layer}/{LETTERS[match['kind']]}"


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a file. Raises InputError if it is damaged, or if its config.json is not a GPT-2's."""
    file = open_hdf5(path)
    keys: dict[str, str] = {}
    for key in file.datasets:
        if keys.setdefault(openai_name(key), key) != key:
            raise InputError(f"{path}: {key} is there twice: copy or download the file again")
    shapes = {name: file.datasets[key].shape for name, key in keys.items()}
    for name, shape in shapes.items():
        if name.endswith("/b") and shape[:1] == (1,):  # a bias is stored as [1, outputs]
            shapes[name] = shape[1:]

    def read(name: str) -> np.ndarray:
        return file.read_float32(keys[name]).reshape(shapes[name])

    return Checkpoint(path, shapes, read, read_config(path))
