"""A model as LiteRT's graphs: all between one attention and the next is a stage, and a few stages are a file."""

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.backend.starting import silence_stderr
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, tensor_shapes

PART = 4e8  # bytes of float32 weights that are converted at a time
Weights = dict[str, np.ndarray]
Graph = Any  # a tf.function with a signature


def convert(
    checkpoint: Checkpoint, config: GPT2Config, folder: Path, quantized: bool, show: Callable[[int, int | None], None]
) -> None:
    """Writes the graphs and the embeddings of a model to a folder.

    Args:
        quantized: matrices in int8 with a scale a column; else float32.
        show: is called with how many blocks are done, and how many there are.
    """
    for name in ("wte", "wpe"):
        np.save(folder / f"{name}.npy", checkpoint.read(name))
    write(folder / "head.tflite", {"head": head(checkpoint, config)}, quantized)
    for numbers in parts(config):
        graphs = {f"stage{number:03}": stage(checkpoint, config, number) for number in numbers}
        write(folder / f"stages-{numbers[0]:03}.tflite", graphs, quantized)
        show(min(numbers[-1] + 1, config.n_layer), config.n_layer)


def parts(config: GPT2Config) -> Iterator[list[int]]:
    """The numbers of the stages of each file."""
    size = 4 * sum(math.prod(shape) for name, shape in tensor_shapes(config).items() if name.startswith("h0/"))
    count, stages = max(1, int(PART / size)), config.n_layer + 1
    return (list(range(first, min(first + count, stages))) for first in range(0, stages, count))


def stage(checkpoint: Checkpoint, config: GPT2Config, number: int) -> Graph:
    """From the attention of block `number` - 1 to that of block `number`, where there are such blocks.

    Inputs: x [N, C], which the earlier block began with, and attended [N, C], what its attention gave; without one, x
    is the sum of the embeddings. Outputs: x [N, C], which the later block begins with, and its new [N, 3·C], queries,
    keys and values; without one, x is the hidden states.
    """
    import tensorflow as tf

    from gpt_tf2.model import after_attention, before_attention

    earlier = read_block(checkpoint, config, number - 1) if number else None
    later = read_block(checkpoint, config, number) if number < config.n_layer else None
    rows = (None, config.n_embd)

    def run(x: tf.Tensor, attended: tf.Tensor = None) -> dict[str, tf.Tensor]:
        if earlier:
            x = after_attention(earlier, x, attended)
        return {"x": tf.identity(x)} | ({"new": before_attention(later, x)} if later else {})

    names = ["x", "attended"] if earlier else ["x"]
    signature = [tf.TensorSpec(rows, tf.float32, name) for name in names]
    return tf.function(run, input_signature=signature, autograph=False)


def read_block(checkpoint: Checkpoint, config: GPT2Config, block: int) -> Weights:
    """The tensors of a block by their names within it."""
    prefix = f"h{block}/"
    names = [name for name in tensor_shapes(config) if name.startswith(prefix)]
    return {name.removeprefix(prefix): checkpoint.read(name) for name in names}


def head(checkpoint: Checkpoint, config: GPT2Config) -> Graph:
    """x [N, C], hidden states after the last block → logits [N, n_vocab]."""
    import tensorflow as tf

    from gpt_tf2.model import layer_norm

    weights = {name: checkpoint.read(name) for name in ("ln_f/g", "ln_f/b", "wte")}

    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.matmul(layer_norm(x, weights, "ln_f"), weights["wte"], transpose_b=True)}

    signature = [tf.TensorSpec((None, config.n_embd), tf.float32, "x")]
    return tf.function(run, input_signature=signature, autograph=False)


def write(path: Path, graphs: dict[str, Graph], quantized: bool) -> None:
    """Writes graphs to a file of LiteRT's, each under its name."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=path.parent) as saved, silence_stderr():
        module = tf.Module()
        module.graphs = list(graphs.values())  # or they are not saved
        tf.saved_model.save(module, saved, graphs)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=list(graphs))
        if quantized:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        path.write_bytes(converter.convert())
