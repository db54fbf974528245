"""A model as LiteRT graphs: it is cut at every attention, and what lies between two cuts is a stage.

    stage 0        block 0 up to its attention: layer norm; queries, keys and values
    stage i        block i - 1 from its attention on: projection, MLP; then block i up to its attention
    stage n_layer  the last block from its attention on
    head           the final layer norm, and the product with the token embedding or the own output matrix

The attention itself, with its cache, is not a graph (see `attention.py`). So a stage is a function of hidden states
[N, C], the N new tokens of all sequences, and one graph serves any number of sequences and tokens.

Several stages share a file, each as a signature. The embeddings are kept as .npy files, of which a step reads the rows
that it needs.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.backend.starting import silence_stderr
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, output_matrix, tensor_shapes

MAX_FILE_BYTES = 4e8  # of float32 weights: well below the 2 GB that the formats allow, and little memory to convert
Weights = dict[str, np.ndarray]
Graph = Any  # a tf.function with a signature


def convert(
    checkpoint: Checkpoint, config: GPT2Config, folder: Path, quantized: bool, show: Callable[[int, int | None], None]
) -> None:
    """Converts a model: writes its graphs and embeddings to a folder.

    Args:
        folder: must exist.
        quantized: stores matrices in int8 with a scale per column; else in float32.
        show: called with the number of blocks done, and in all.
    """
    for name in ("wte", "wpe"):
        np.save(folder / f"{name}.npy", checkpoint.read(name))
    write_graphs(folder / "head.tflite", {"head": build_head(checkpoint, config)}, quantized)
    for numbers in group_stages(config):
        stages = {f"stage{number:03}": build_stage(checkpoint, config, number) for number in numbers}
        write_graphs(folder / f"stages-{numbers[0]:03}.tflite", stages, quantized)
        show(min(numbers[-1] + 1, config.n_layer), config.n_layer)


def group_stages(config: GPT2Config) -> Iterator[list[int]]:
    """The numbers of the stages that share a file, file by file."""
    size = 4 * sum(math.prod(shape) for name, shape in tensor_shapes(config).items() if name.startswith("h0/"))
    count, stages = max(1, int(MAX_FILE_BYTES / size)), config.n_layer + 1
    return (list(range(first, min(first + count, stages))) for first in range(0, stages, count))


def build_stage(checkpoint: Checkpoint, config: GPT2Config, number: int) -> Graph:
    """The stage from the attention of block `number` - 1 to that of block `number`.

    Inputs:
        x: float32 [N, C], the input of block `number` - 1; for stage 0, the sum of the embeddings.
        attended: float32 [N, C], what the attention of block `number` - 1 returned; not for stage 0.

    Outputs:
        x: float32 [N, C], the input of block `number`; for the last stage, the hidden states before the head.
        new: float32 [N, 3·C], queries, keys and values of block `number`; not for the last stage.
    """
    import tensorflow as tf

    from gpt_tf2.model import after_attention, before_attention

    earlier = read_block(checkpoint, config, number - 1) if number else None
    later = read_block(checkpoint, config, number) if number < config.n_layer else None

    def run(x: tf.Tensor, attended: tf.Tensor = None) -> dict[str, tf.Tensor]:
        if earlier:
            x = after_attention(earlier, x, attended)
        return {"x": tf.identity(x)} | ({"new": before_attention(later, x)} if later else {})

    names = ["x", "attended"] if earlier else ["x"]
    signature = [tf.TensorSpec((None, config.n_embd), tf.float32, name) for name in names]
    return tf.function(run, input_signature=signature, autograph=False)


def build_head(checkpoint: Checkpoint, config: GPT2Config) -> Graph:
    """The head: x, the hidden states after the last block, float32 [N, C] → logits, float32 [N, n_vocab]."""
    import tensorflow as tf

    from gpt_tf2.model import layer_norm

    weights = {name: checkpoint.read(name) for name in ("ln_f/g", "ln_f/b")}
    matrix = checkpoint.read(output_matrix(config))

    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.matmul(layer_norm(x, weights, "ln_f"), matrix, transpose_b=True)}

    signature = [tf.TensorSpec((None, config.n_embd), tf.float32, "x")]
    return tf.function(run, input_signature=signature, autograph=False)


def read_block(checkpoint: Checkpoint, config: GPT2Config, block: int) -> Weights:
    """The tensors of a block by their names within it, such as `attn/c_attn/w`."""
    prefix = f"h{block}/"
    names = [name for name in tensor_shapes(config) if name.startswith(prefix)]
    return {name.removeprefix(prefix): checkpoint.read(name) for name in names}


def write_graphs(path: Path, graphs: dict[str, Graph], quantized: bool) -> None:
    """Writes graphs to a LiteRT file, each as the signature of its name."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=path.parent) as saved, silence_stderr():
        module = tf.Module()
        module.graphs = list(graphs.values())  # signatures that no attribute refers to are not saved
        tf.saved_model.save(module, saved, graphs)
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=list(graphs))
        if quantized:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        path.write_bytes(converter.convert())
