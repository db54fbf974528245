"""A model as LiteRT's graphs: a few blocks a file, so that no file and no conversion is large."""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt_tf2.backend import quiet
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, tensor_shapes

if TYPE_CHECKING:
    import tensorflow as tf

PART = 4e8  # bytes of float32 weights that are converted at a time
Weights = dict[str, np.ndarray]


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
    (folder / "head.tflite").write_bytes(lite(head_graph(checkpoint, config), quantized))
    for blocks in parts(config):
        weights = [read_block(checkpoint, config, block) for block in blocks]
        (folder / f"blocks-{blocks[0]:03}.tflite").write_bytes(lite(block_graph(weights, config, blocks[0]), quantized))
        show(blocks[-1] + 1, config.n_layer)


def parts(config: GPT2Config) -> Iterator[list[int]]:
    """The numbers of the blocks of each file."""
    size = 4 * sum(math.prod(shape) for name, shape in tensor_shapes(config).items() if name.startswith("h0/"))
    count = max(1, int(PART / size))
    return (list(range(first, min(first + count, config.n_layer))) for first in range(0, config.n_layer, count))


def read_block(checkpoint: Checkpoint, config: GPT2Config, block: int) -> Weights:
    """The tensors of a block by their names within it."""
    prefix = f"h{block}/"
    names = [name for name in tensor_shapes(config) if name.startswith(prefix)]
    return {name.removeprefix(prefix): checkpoint.read(name) for name in names}


def block_graph(weights: list[Weights], config: GPT2Config, first: int) -> "tf.types.experimental.ConcreteFunction":
    """Consecutive blocks from number `first` on, over new tokens and cached ones.

    Inputs: x [B, T, H, D], the hidden states by heads, which also tells the shape in a way that LiteRT knows before it
    runs; bias [B, 1, 1, S] and new_bias [1, 1, T, T], added to the scores of cached and of new tokens; k003, v003, …
    [B, H, S, D], the caches. Outputs: hidden, as x; k003, v003, … [B, H, T, D].
    """
    import tensorflow as tf

    from gpt_tf2.model import attend, block

    heads, depth = config.n_head, config.n_embd // config.n_head
    names = [f"{kind}{first + i:03}" for i in range(len(weights)) for kind in "kv"]
    signature = [
        tf.TensorSpec((None, None, heads, depth), tf.float32, "x"),
        tf.TensorSpec((None, 1, 1, None), tf.float32, "bias"),
        tf.TensorSpec((1, 1, None, None), tf.float32, "new_bias"),
        *(tf.TensorSpec((None, heads, None, depth), tf.float32, name) for name in names),
    ]

    @tf.function(input_signature=signature, autograph=False)
    def run(x: tf.Tensor, bias: tf.Tensor, new_bias: tf.Tensor, *caches: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(x)
        x = tf.reshape(x, (-1, config.n_embd))
        rows: list[tf.Tensor] = []
        for tensors, keys, values in zip(weights, caches[::2], caches[1::2], strict=True):
            how = functools.partial(attend, bias=new_bias, cache=(keys, values, bias))
            x, new = block(tensors, x, heads, how, shape=shape)
            rows += new
        return {"hidden": tf.reshape(x, shape), **dict(zip(names, rows, strict=True))}

    return run.get_concrete_function()


def head_graph(checkpoint: Checkpoint, config: GPT2Config) -> "tf.types.experimental.ConcreteFunction":
    """x [N, C], hidden states after the last block → logits [N, n_vocab]."""
    import tensorflow as tf

    from gpt_tf2.model import layer_norm

    weights = {name: checkpoint.read(name) for name in ("ln_f/g", "ln_f/b", "wte")}
    signature = [tf.TensorSpec((None, config.n_embd), tf.float32, "x")]

    @tf.function(input_signature=signature, autograph=False)
    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.matmul(layer_norm(x, weights, "ln_f"), weights["wte"], transpose_b=True)}

    return run.get_concrete_function()


def lite(graph: "tf.types.experimental.ConcreteFunction", quantized: bool) -> bytes:
    """A graph in LiteRT's format."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], tf.Module())
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with quiet():
        return converter.convert()
