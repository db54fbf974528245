"""A model as LiteRT graphs: it is cut at every attention, and what lies between two cuts is a stage.

    stage 0        block 0 up to its attention: layer norm; queries, keys and values
    stage i        block i - 1 from its attention on: projection, MLP; then block i up to its attention
    stage n_layer  the last block from its attention on
    head           the final layer norm, and the product with the token embedding or the own output matrix

The attention itself, with its cache, is not a graph (see `attention.py`). So a stage is a function of hidden states
[N, C], the N new tokens of all sequences, and one graph serves any number of sequences and tokens.

Several stages share a file, each as a signature. The embeddings are kept as .npy files, of which a step reads the rows
that it needs.

The graphs come from the network in `model.py`, which `tracing.py` traced once and without weights, as a network of two
blocks. A model has the same with other shapes, its middle stage several times, and its own weights.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, output_matrix, tensor_shapes
from gpt_tf2.decoding.litert.model_file import unpack, write_model

# The network that is traced: its four sizes differ, and its matrices are large enough for the converter to round.
TRACED = GPT2Config(n_vocab=1000, n_ctx=1, n_embd=64, n_head=1, n_layer=2, tied=False)
HEAD = "head"
MAX_FILE_BYTES = 4e8  # of float32 weights
SHARE = 1 / 6  # of the stages, at most, in a file: while a file is opened, its weights are in memory twice


def convert(
    checkpoint: Checkpoint, config: GPT2Config, folder: Path, quantized: bool, show: Callable[[int, int | None], None]
) -> None:
    """Converts a model: writes its graphs and embeddings to a folder. The memory holds one tensor at a time.

    Args:
        folder: must exist.
        quantized: stores matrices in int8 with a scale per column; else in float32.
        show: called with the number of blocks done, and in all.
    """
    precision = "int8" if quantized else "float32"
    for name in ("wte", "wpe"):
        np.save(folder / f"{name}.npy", checkpoint.read(name))
    write_graphs(folder / "head.tflite", checkpoint, config, precision, [HEAD])
    for numbers in group_stages(config):
        names = [name_stage(number) for number in numbers]
        write_graphs(folder / f"stages-{numbers[0]:03}.tflite", checkpoint, config, precision, names)
        show(min(numbers[-1] + 1, config.n_layer), config.n_layer)


def group_stages(config: GPT2Config) -> Iterator[list[int]]:
    """The numbers of the stages that share a file, file by file."""
    size = 4 * sum(math.prod(shape) for name, shape in tensor_shapes(config).items() if name.startswith("h0/"))
    stages = config.n_layer + 1
    count = max(1, int(min(MAX_FILE_BYTES / size, stages * SHARE)))
    return (list(range(first, min(first + count, stages))) for first in range(0, stages, count))


def name_stage(number: int) -> str:
    """The signature of a stage."""
    return f"stage{number:03}"


def write_graphs(path: Path, checkpoint: Checkpoint, config: GPT2Config, precision: str, names: Iterable[str]) -> None:
    """Writes some of a model's graphs to a LiteRT file, each as the signature of its name."""
    model = unpack(traced_path(precision).read_bytes())
    traced = {signature.signatureKey.decode(): signature for signature in model.signatureDefs}
    subgraphs, model.subgraphs, model.signatureDefs = model.subgraphs, [], []
    weights: dict[str, Any] = {}
    for name in names:
        origin, shift = find_origin(name, config)
        signature = copy.copy(traced[origin])
        graph = copy.deepcopy(subgraphs[signature.subgraphIndex])
        signature.signatureKey, signature.subgraphIndex = name, len(model.subgraphs)
        model.signatureDefs.append(signature)
        model.subgraphs.append(graph)
        widen(graph, config)
        for tensor in graph.tensors:
            if tensor.name:
                weights[find_weight(tensor.name.decode(), shift, config)] = tensor
    with path.open("wb") as file:
        write_model(file, model, weights, lambda name: turn_matrix(name, checkpoint.read(name)))


def find_origin(name: str, config: GPT2Config) -> tuple[str, int]:
    """The traced graph that is a model's graph with other weights, and how many blocks later these lie."""
    if name == HEAD:
        return HEAD, 0
    number = int(name.removeprefix("stage"))
    traced = 0 if number == 0 else TRACED.n_layer if number == config.n_layer else 1
    return name_stage(traced), number - traced


def traced_path(precision: str) -> Path:
    """The file of the traced graphs. Of their tensors only weights have names, which are OpenAI's."""
    return Path(__file__).with_name(f"graphs-{precision}.tflite")


def widen(graph: Any, config: GPT2Config) -> None:
    """Gives the tensors of a traced graph the shapes that they have in a model."""
    sizes = dict(zip(list_sizes(TRACED), list_sizes(config), strict=True))
    for tensor in graph.tensors:
        for shape in (tensor.shape, tensor.shapeSignature):
            if shape is not None:
                shape[:] = [sizes.get(size, size) for size in shape.tolist()]


def list_sizes(config: GPT2Config) -> tuple[int, ...]:
    """All sizes that a dimension may have, other than one and the number of tokens."""
    return (config.n_embd, 3 * config.n_embd, 4 * config.n_embd, config.n_vocab)


def find_weight(name: str, shift: int, config: GPT2Config) -> str:
    """The name in a model of a traced graph's weight."""
    block, _, name_in_block = name.partition("/")
    if name_in_block and block.startswith("h"):
        return f"h{int(block[1:]) + shift}/{name_in_block}"
    return output_matrix(config) if name == output_matrix(TRACED) else name


def turn_matrix(name: str, values: np.ndarray) -> np.ndarray:
    """A tensor as LiteRT stores it: a matrix is [outputs, inputs]."""
    return values.T if name.endswith("/w") else values
