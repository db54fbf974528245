"""What transformers' TF classes wrote until transformers 5 dropped them: `tf_model.h5`, and safetensors with its names.

The file is one of Keras 2: a group for the main layer, and in it each variable under its name, such as
`transformer/tfgpt2lm_head_model/transformer/h_._0/attn/c_attn/weight:0`.
"""

import functools
import re
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.stored import StoredTensor
from gpt_tf2.storage.hdf5 import HDF5File, open_hdf5

VARIABLE = re.compile(
    r"(?:(?:.*/)?h_\._(?P<block>\d+)/|(?:.*/)?)"
    r"(?P<layer>wte|wpe|ln_[12f]|attn/c_attn|attn/c_proj|mlp/c_fc|mlp/c_proj)/"
    r"(?P<kind>weight|bias|gamma|beta|embeddings):0"
)
END = ":0"  # of each variable's name
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


def list_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by its names. Raises InputError if it is damaged."""
    file = open_hdf5(path)
    return {
        key: StoredTensor(path, stored.shape, str(stored.dtype), True, functools.partial(read_rows, file, key))
        for key, stored in file.datasets.items()
    }


def read_rows(file: HDF5File, key: str, rows: slice) -> np.ndarray:
    """Some rows of a tensor as float32."""
    return file.read_float32(key)[rows]
