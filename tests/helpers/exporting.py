"""Models to export."""

import shutil
import zlib
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.formats import write_checkpoint
from gpt_tf2.config import GPT2Config, tensor_shapes
from helpers.workplace import OPENAI_TINY

WIDE = GPT2Config(n_vocab=512, n_ctx=128, n_embd=64, n_head=4, n_layer=2)
VOCABULARY = OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe"


def write_wide_model(
    folder: Path, std: float = 0.2, config: GPT2Config = WIDE, vocabulary: tuple[Path, Path] = VOCABULARY
) -> Path:
    """Writes a model with rows of whole blocks and no tensor of zeros or ones. Returns its folder.

    vocabulary: its encoder.json and vocab.bpe.
    """
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, "float32") * np.float32(std)
        tensors[name] = values + 1 if name.endswith("/g") else values
    write_checkpoint(folder / "model.safetensors", config, tensors)
    for file in vocabulary:
        shutil.copy(file, folder)
    return folder
