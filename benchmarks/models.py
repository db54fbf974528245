"""Random models and texts that the benchmarks write for the systems they measure."""

import shutil
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints import huggingface
from gpt_tf2.config import GPT2Config, tensor_shapes

PEAK = 7  # of the last layer's scale: a nucleus of 0.8 then holds some 100 tokens, like a trained model's


def write_model(folder: Path, config: GPT2Config, vocabulary: list[Path]) -> None:
    """Writes a random `model.safetensors`, with the vocabulary's files beside it.

    All tensors repeat the same few million values: independent ones would take minutes at 1558M.
    """
    values = 0.02 * np.random.default_rng(0).standard_normal(1 << 22, "float32")
    huggingface.write(folder / "model.safetensors", config, RepeatedTensors(config, values))
    for file in vocabulary:
        shutil.copy(file, folder / file.name)


def random_tensors(config: GPT2Config) -> dict[str, np.ndarray]:
    """Random tensors by OpenAI's names, which predict as sharply as a trained model's and never the end of text."""
    draw = np.random.default_rng(0)
    tensors = {
        name: np.ones(shape, "float32") if name.endswith("/g") else 0.02 * draw.standard_normal(shape, "float32")
        for name, shape in tensor_shapes(config).items()
    }
    tensors["ln_f/g"] *= PEAK
    tensors["wte"][-1] = 0  # the end of text: far below the likely tokens
    return tensors


class RepeatedTensors(dict[str, np.ndarray]):
    """Tensors by OpenAI's names, made when they are asked for."""

    def __init__(self, config: GPT2Config, values: np.ndarray):
        super().__init__()
        self.shapes, self.values = tensor_shapes(config), values

    def __missing__(self, name: str) -> np.ndarray:
        return (
            np.ones(self.shapes[name], "float32") if name.endswith("/g") else np.resize(self.values, self.shapes[name])
        )


def write_text(path: Path) -> None:
    """Writes some 20,000 words to train on."""
    path.write_text(" ".join(f"The tide has counted {n} boats home." for n in range(2000)), encoding="utf-8")
