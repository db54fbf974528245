"""A graph of LiteRT's built-in operators, written one by one in the schema of its files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

PER_CHANNEL = 12  # the version of FULLY_CONNECTED that reads a scale per output; all else is in each operator's first

Scales = Mapping[str, np.ndarray]  # of the matrices in int8, by OpenAI's names


class Graph:
    """A graph while it is written. Tensors are numbers in it.

    Args:
        model: gets the values of constants, and the kinds of operators.
        weights: the number of each tensor's buffer in the model.
        shapes: of these tensors, as they are stored.
        scales: of those in int8.
    """

    def __init__(self, model: Any, weights: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], scales: Scales):
        self.model, self.weights, self.shapes, self.scales = model, weights, shapes, scales
        self.parts = schema.SubGraphT(tensors=[], operators=[])
        self.inputs: dict[str, int] = {}
        self.outputs: dict[str, int] = {}

    def add_tensor(self, shape: Sequence[int], dtype: str = "float32", **fields: Any) -> int:
        kind = getattr(schema.TensorType, dtype.upper())
        self.parts.tensors.append(schema.TensorT(shape=np.array(shape, "int32"), type=kind, **fields))
        return len(self.parts.tensors) - 1

    def add_input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> int:
        self.inputs[name] = self.add_tensor(shape, dtype, name=name)
        return self.inputs[name]

    def add_output(self, name: str, tensor: int) -> None:
        self.parts.tensors[tensor].name = f"new_{name}" if name in self.inputs else name
        self.outputs[name] = tensor

    def close(self, name: str) -> None:
        """Adds the graph to the model, with a signature."""
        self.parts.name = name
        self.parts.inputs, self.parts.outputs = list(self.inputs.values()), list(self.outputs.values())
        inputs, outputs = (
            [schema.TensorMapT(*pair) for pair in named.items()] for named in (self.inputs, self.outputs)
        )
        self.model.signatureDefs.append(schema.SignatureDefT(inputs, outputs, name, len(self.model.subgraphs)))
        self.model.subgraphs.append(self.parts)

    def constant(self, values: Any, dtype: str = "float32") -> int:
        array = np.array(values, dtype)
        self.model.buffers.append(schema.BufferT(data=np.frombuffer(array.tobytes(), "uint8")))
        return self.add_tensor(array.shape, dtype, buffer=len(self.model.buffers) - 1)

    def weight(self, name: str) -> int:
        return self.add_tensor(self.shapes[name], buffer=self.weights[name], name=name)

    def whole_numbers(self, name: str) -> int:
        """A matrix in int8 without its scales."""
        return self.add_tensor(self.shapes[name], "int8", buffer=self.weights[name], name=f"{name}_int8")

    def matrix(self, name: str) -> int:
        """A matrix that FULLY_CONNECTED multiplies by."""
        if name not in self.scales:
            return self.weight(name)
        scale = self.scales[name]
        steps = schema.QuantizationParametersT(scale=scale, zeroPoint=np.zeros(len(scale), "int64"))
        return self.add_tensor(self.shapes[name], "int8", buffer=self.weights[name], name=name, quantization=steps)

    def apply(
        self, name: str, inputs: Sequence[int], shape: Sequence[int], options: Any = None, dtype: str = "float32"
    ) -> int:
        """Adds an operator, and returns its output, a tensor of that shape."""
        return self.apply_split(name, inputs, [shape], options, dtype)[0]

    def apply_split(
        self, name: str, inputs: Sequence[int], shapes: Sequence[Sequence[int]], options: Any, dtype: str = "float32"
    ) -> list[int]:
        """Adds an operator with several outputs."""
        outputs = [self.add_tensor(shape, dtype) for shape in shapes]
        operator = schema.OperatorT(opcodeIndex=self.find_kind(name), inputs=list(inputs), outputs=outputs)
        if options:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.parts.operators.append(operator)
        return outputs

    def find_kind(self, name: str) -> int:
        """The number of a kind of operator in the model."""
        code, kinds = getattr(schema.BuiltinOperator, name), self.model.operatorCodes
        for number, kind in enumerate(kinds):
            if kind.builtinCode == code:
                return number
        version = PER_CHANNEL if name == "FULLY_CONNECTED" and self.scales else 1
        kinds.append(schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version))
        return len(kinds) - 1

    def add(self, a: int, b: int, shape: Sequence[int]) -> int:
        return self.apply("ADD", [a, b], shape, schema.AddOptionsT())

    def multiply(self, a: int, b: int, shape: Sequence[int]) -> int:
        return self.apply("MUL", [a, b], shape, schema.MulOptionsT())

    def reshape(self, x: int, shape: Sequence[int], dtype: str = "float32") -> int:
        return self.apply("RESHAPE", [x, self.constant(shape, "int32")], shape, schema.ReshapeOptionsT(shape), dtype)

    def gather(self, table: int, rows: int, shape: Sequence[int], dtype: str = "float32") -> int:
        return self.apply("GATHER", [table, rows], shape, schema.GatherOptionsT(), dtype)
