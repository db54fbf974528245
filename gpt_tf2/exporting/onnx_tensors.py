"""The tensors of an ONNX graph: in the graph's own file, or beside it. Each is read when it is written."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Types = Mapping[str, tuple[str, tuple[int, ...]]]  # of `tensor_types`
Tensors = Iterator[np.ndarray]  # in the order of their types
MOST_BYTES = 1_900_000_000  # of tensors in a file: Protocol Buffers and browsers end at 2 GB


def count_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return np.dtype(dtype).itemsize * math.prod(shape)


def write_graph(graph: "ModelProto", types: Types, tensors: Tensors, path: Path) -> int:
    """Writes a graph with its tensors, and returns the number of files for tensors beside it, mostly 0."""
    if sum(count_bytes(dtype, shape) for dtype, shape in types.values()) > MOST_BYTES:
        return write_beside(graph, types, tensors, path)
    write_whole(graph, types, tensors, path)
    return 0


def write_whole(graph: "ModelProto", types: Types, tensors: Tensors, path: Path) -> None:
    """Writes a graph with its tensors to a file.

    The message is put together by hand, with the tensors at its end: the library would hold all of them three times.
    """
    import onnx

    heads = []
    for name, (dtype, shape) in types.items():
        tensor, size = define(name, dtype, shape).SerializeToString(), count_bytes(dtype, shape)
        tensor += frame(onnx.TensorProto, "raw_data", size)
        heads.append((frame(onnx.GraphProto, "initializer", len(tensor) + size) + tensor, size))
    nodes = graph.graph.SerializeToString()
    graph.ClearField("graph")
    with path.open("wb") as file:
        file.write(graph.SerializeToString())
        file.write(frame(onnx.ModelProto, "graph", len(nodes) + sum(len(head) + size for head, size in heads)))
        file.write(nodes)
        for (head, _), values in zip(heads, tensors, strict=True):
            file.write(head)
            file.write(np.ascontiguousarray(values).data)


def write_beside(graph: "ModelProto", types: Types, tensors: Tensors, path: Path) -> int:
    """Writes tensors to files beside that of their graph, then the graph, and returns the number of the other files.

    They are called as transformers.js looks for them: model.onnx_data, model.onnx_data_1 and so on.
    """
    import onnx

    files, end = 0, MOST_BYTES
    for (name, (dtype, shape)), values in zip(types.items(), tensors, strict=True):
        if end + values.nbytes > MOST_BYTES:
            files, end = files + 1, 0
        data = path.with_name(f"{path.name}_data" + (f"_{files - 1}" if files > 1 else ""))
        with data.open("ab") as file:
            file.write(np.ascontiguousarray(values).data)
        tensor = define(name, dtype, shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", data.name), ("offset", end), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        graph.graph.initializer.append(tensor)
        end += values.nbytes
    path.write_bytes(graph.SerializeToString())
    return files


def define(name: str, dtype: str, shape: tuple[int, ...]) -> "TensorProto":
    """A tensor without its values."""
    import onnx

    return onnx.TensorProto(name=name, dims=shape, data_type=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def frame(message: Any, field: str, size: int) -> bytes:
    """What stands before a field of `size` bytes in a message of Protocol Buffers: its number and its size.

    Example:
        >>> frame(onnx.TensorProto, "raw_data", 300)  # doctest: +SKIP
        b'J\\xac\\x02'
    """
    return encode(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2) + encode(size)


def encode(number: int) -> bytes:
    """A whole number in seven bits a byte, the lowest first."""
    parts = [number >> shift & 127 for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([*(part | 128 for part in parts[:-1]), parts[-1]])
