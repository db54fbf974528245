"""Traces the graphs of `graphs.py` with TensorFlow, from the network in `model.py`.

    python -m gpt_tf2.decoding.litert.tracing

writes `graphs-float32.tflite` and `graphs-int8.tflite` beside this file: the graphs of a small network, without its
weights. They are part of the package, so that models are converted without TensorFlow, which takes more memory and time
than the weights. Write them again when the network changes; a test compares.
"""

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from gpt_tf2.backend.starting import silence_stderr, start_backend
from gpt_tf2.config import GPT2Config, output_matrix, tensor_shapes
from gpt_tf2.decoding.litert.graphs import HEAD, TRACED, name_stage, traced_path, turn_matrix
from gpt_tf2.decoding.litert.model_file import pack, unpack
from gpt_tf2.decoding.rounding import quantize

Weights = Mapping[str, np.ndarray]  # by OpenAI's names
Function = Any  # a tf.function with a signature


def main() -> None:
    start_backend()
    for precision in ("float32", "int8"):
        traced_path(precision).write_bytes(trace(precision))


def trace(precision: str) -> bytes:
    """A LiteRT file of all graphs of the network TRACED, without weights."""
    weights = draw_weights(TRACED)
    names = {encode(name, values, precision): name for name, values in weights.items()}
    model = unpack(run_converter(trace_network(TRACED, weights), quantized=precision == "int8"))
    remove_weights(model, names)
    return pack(model)


def draw_weights(config: GPT2Config) -> Weights:
    """Random weights, of which no two are equal: the converter would store them once."""
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal(shape, "float32") for name, shape in tensor_shapes(config).items()}


def encode(name: str, values: np.ndarray, precision: str) -> bytes:
    """The bytes of a weight as the converter stores it."""
    stored = turn_matrix(name, values)
    if precision == "int8" and stored.ndim == 2:
        stored, _ = quantize(stored)
    return stored.tobytes()


def trace_network(config: GPT2Config, weights: Weights) -> dict[str, Function]:
    """All stages of a network, and its head, by their signatures."""
    stages = {name_stage(number): trace_stage(config, weights, number) for number in range(config.n_layer + 1)}
    return {**stages, HEAD: trace_head(config, weights)}


def trace_stage(config: GPT2Config, weights: Weights, number: int) -> Function:
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

    earlier, later = take_block(weights, number - 1), take_block(weights, number)

    def run(x: tf.Tensor, attended: tf.Tensor = None) -> dict[str, tf.Tensor]:
        if earlier:
            x = after_attention(earlier, x, attended)
        return {"x": tf.identity(x)} | ({"new": before_attention(later, x)} if later else {})

    names = ["x", "attended"] if earlier else ["x"]
    signature = [tf.TensorSpec((None, config.n_embd), tf.float32, name) for name in names]
    return tf.function(run, input_signature=signature, autograph=False)


def take_block(weights: Weights, block: int) -> Weights:
    """The tensors of a block by their names within it, such as `attn/c_attn/w`; none if there is no such block."""
    prefix = f"h{block}/"
    return {name.removeprefix(prefix): values for name, values in weights.items() if name.startswith(prefix)}


def trace_head(config: GPT2Config, weights: Weights) -> Function:
    """The head: x, the hidden states after the last block, float32 [N, C] → logits, float32 [N, n_vocab]."""
    import tensorflow as tf

    from gpt_tf2.model import layer_norm

    matrix = weights[output_matrix(config)]

    def run(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.matmul(layer_norm(x, weights, "ln_f"), matrix, transpose_b=True)}

    signature = [tf.TensorSpec((None, config.n_embd), tf.float32, "x")]
    return tf.function(run, input_signature=signature, autograph=False)


def run_converter(functions: Mapping[str, Function], quantized: bool) -> bytes:
    """A LiteRT file of functions, each as the signature of its name."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as saved, silence_stderr():
        module = tf.Module()
        module.functions = list(functions.values())  # signatures that no attribute refers to are not saved
        tf.saved_model.save(module, saved, dict(functions))
        converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=list(functions))
        if quantized:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


def remove_weights(model: Any, names: Mapping[bytes, str]) -> None:
    """Empties the weights of a model's graphs, and names them instead.

    names: of the weights by their values as they are stored.
    """
    buffers = [schema.BufferT()]  # the first holds no values
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            content = b"" if data is None else bytes(data)
            tensor.name, tensor.buffer = names.get(content), 0
            if tensor.name:
                tensor.quantization = None
            elif content:
                tensor.buffer = len(buffers)
                buffers.append(schema.BufferT(data=data))
    model.buffers = buffers
    model.metadata = None  # TensorFlow's version, and a random number


if __name__ == "__main__":
    main()
