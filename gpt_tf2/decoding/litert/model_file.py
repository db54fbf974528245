"""LiteRT's files: a FlatBuffer with the graphs, and behind it the values of their weights."""

import math
from collections.abc import Callable, Mapping
from typing import IO, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from gpt_tf2.decoding.rounding import quantize

ALIGNMENT = 64  # bytes
ROWS = 1024  # of a matrix that are rounded at a time


def unpack(content: bytes) -> Any:
    """A file's content as the schema's objects."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def pack(model: Any) -> bytes:
    """The content of a file, from the schema's objects."""
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def write_model(file: IO[bytes], model: Any, weights: Mapping[str, Any], read: Callable[[str], np.ndarray]) -> None:
    """Writes a model, and then its weights one by one: a FlatBuffer would hold all of them in memory, and 2 GB at most.

    Args:
        model: gets a buffer for each weight, and for those in int8 their scales.
        weights: the tensors in the model by name. A matrix is [outputs, inputs].
        read: returns the values by name, float32, in the order in which the tensor has them.
    """
    buffers = {}
    for name, tensor in weights.items():
        buffers[name] = schema.BufferT(offset=2, size=math.prod(tensor.shape) * (1 if is_int8(tensor) else 4))
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffers[name])
        if is_int8(tensor):
            scale, zeros = np.zeros(tensor.shape[0], "float32"), np.zeros(tensor.shape[0], "int64")
            tensor.quantization = schema.QuantizationParametersT(scale=scale, zeroPoint=zeros)
    end = len(pack(model))  # which depends on no offset, if none is 0 or 1
    for buffer in buffers.values():
        buffer.offset = -(-end // ALIGNMENT) * ALIGNMENT
        end = buffer.offset + buffer.size
    for name, tensor in weights.items():
        file.seek(buffers[name].offset)
        values = read(name)
        for first in range(0, len(values), ROWS):
            part = values[first : first + ROWS]
            if is_int8(tensor):
                part, tensor.quantization.scale[first : first + ROWS] = quantize(part)
            file.write(np.ascontiguousarray(part).data)
    file.seek(0)
    file.write(pack(model))


def is_int8(tensor: Any) -> bool:
    return tensor.type == schema.TensorType.INT8
