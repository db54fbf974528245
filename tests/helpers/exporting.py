"""Models to export."""

import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.formats import write_checkpoint
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.decoding.reference import hold_reference
from gpt_tf2.exporting.proof import Expected, LogitsOf, compute_expected
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


def run(logits_of: LogitsOf, ids: np.ndarray, steps: int = 0) -> np.ndarray:
    """The logits [T, n_vocab] of the token after each of ids, int [T]."""
    return np.concatenate([*logits_of(ids, steps)])


def expect(model: OpenedModel, text: np.ndarray) -> Expected:
    """What our model computes on a text, int [T]."""
    return compute_expected(hold_reference(model), model.config.n_ctx, text, tempfile.TemporaryFile())
