"""Graphs that are put together from the traced ones, against TensorFlow's own conversion of the same network."""

from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.decoding.litert import tracing
from gpt_tf2.decoding.litert.decoder import load_signatures
from gpt_tf2.decoding.litert.graphs import TRACED, traced_path, write_graphs
from gpt_tf2.decoding.litert.model_file import unpack
from gpt_tf2.decoding.rounding import quantize

CONFIG = GPT2Config(n_vocab=300, n_ctx=40, n_embd=48, n_head=3, n_layer=3)
WEIGHTS = tracing.draw_weights(CONFIG)
CHECKPOINT = Checkpoint(Path("drawn"), tensor_shapes(CONFIG), WEIGHTS.__getitem__)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_graphs_are_those_of_tensorflows_converter(precision: str, tmp_path: Path) -> None:
    """To the last bit: both files hold the same values, and compute the same."""
    start_backend()
    functions = tracing.trace_network(CONFIG, WEIGHTS)
    ours, theirs = tmp_path / "ours.tflite", tmp_path / "theirs.tflite"
    write_graphs(ours, CHECKPOINT, CONFIG, precision, functions)
    theirs.write_bytes(tracing.run_converter(functions, quantized=precision == "int8"))
    assert list_values(ours) == list_values(theirs)
    draw = np.random.default_rng(0)
    for own, other in zip(load_signatures(ours), load_signatures(theirs), strict=True):
        inputs = {name: draw.standard_normal((5, 48), "float32") for name in other.get_input_details()}
        computed, expected = own(**inputs), other(**inputs)
        assert computed.keys() == expected.keys()
        for name, values in computed.items():
            np.testing.assert_array_equal(values, expected[name])


def list_values(path: Path) -> list[list[tuple[int, bytes, bytes]]]:
    """The constants of each graph in a file: types, values and scales."""
    content = path.read_bytes()
    model, listed = unpack(content), []
    for signature in sorted(model.signatureDefs, key=lambda signature: signature.signatureKey):
        constants = []
        for tensor in model.subgraphs[signature.subgraphIndex].tensors:
            buffer, steps = model.buffers[tensor.buffer], tensor.quantization
            inner = b"" if buffer.data is None else bytes(buffer.data)
            scale = b"" if steps is None or steps.scale is None else steps.scale.tobytes()
            constants.append((tensor.type, inner or content[buffer.offset : buffer.offset + buffer.size], scale))
        listed.append(sorted(constant for constant in constants if constant[1]))
    return listed


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_each_weight_of_the_traced_network_is_named_once(precision: str) -> None:
    model = unpack(traced_path(precision).read_bytes())
    names = [tensor.name.decode() for graph in model.subgraphs for tensor in graph.tensors if tensor.name]
    assert sorted([*names, "wpe", "wte"]) == sorted(tensor_shapes(TRACED))  # the embeddings are in no graph


def test_rounding_to_int8_is_the_converters() -> None:
    """Halves go away from zero, a row of zeros has a scale, and the division is that of float64."""
    matrix = np.array([[127, -0.5, 0.5, 2.5, -126.5], [0, 0, 0, 0, 0]], "float32")
    rounded, scale = quantize(matrix)
    assert rounded.tolist() == [[127, -1, 1, 3, -127], [0, 0, 0, 0, 0]]
    assert scale[0] == 1 and scale[1] > 0
