"""The memory of a step on JAX, asked of XLA: it compiles the step from shapes alone and says what it will allocate."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gpt_tf2.backend.starting import compute_exactly
from gpt_tf2.config import scale_shapes, tensor_shapes
from gpt_tf2.data.batches import Batch
from gpt_tf2.training.compiled_step import StepGraph
from gpt_tf2.training.compiled_trainer import is_packed, number_draws, split
from gpt_tf2.training.memory import BYTES


def measure_bytes(
    graph: StepGraph,
    trained: Mapping[str, tuple[int, ...]],
    held: str,
    batch: Batch,
    accumulate: int = 1,
    limit: float = math.inf,
    int8: bool = False,
) -> dict[str, float]:
    """The bytes of each kind at a step's peak, on each device. Nothing is allocated.

    A `CompiledTrainer` with an equal graph finds the step compiled.

    Args:
        trained: the shapes of the trained tensors by OpenAI's names.
        held: the dtype of the other matrices.
        batch: of the shape to train on.
        accumulate: as in `make_trainer`.
        int8: whether the blocks' matrices are held in int8 instead.
        limit: where weights and optimizer state alone take more bytes, nothing is compiled and they are the answer.

    Example:
        >>> measure_bytes(graph, tensor_shapes(graph.config), "float32", batch)["weights"]  # doctest: +SKIP
        497759232.0
    """

    def declare(shape: tuple[int, ...], dtype: str = "float32") -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=graph.devices.sharding(shape))

    arrays = {
        name: (declare(shape), tuple(declare(of_state) for of_state in graph.optimizer.state_shapes(shape)))
        for name, shape in trained.items()
    }
    quantized = scale_shapes(graph.config) if int8 else {}
    frozen = {
        name: declare(shape, "int8" if f"{name}_scale" in quantized else held if len(shape) == 2 else "float32")
        for name, shape in (tensor_shapes(graph.config) | quantized).items()
        if name not in trained
    }
    sizes = {
        "weights": sum(map(count_bytes, [weight for weight, _ in arrays.values()] + list(frozen.values()))),
        "optimizer": sum(count_bytes(tensor) for _, state in arrays.values() for tensor in state),
    }
    if sum(sizes.values()) > limit:
        return sizes
    if graph.dtype == "float32":
        compute_exactly()  # as the model will
    one = np.float32(1)
    lowered = StepGraph.step.lower(
        graph,
        arrays,
        frozen,
        split(batch, accumulate, graph.devices),
        number_draws(graph.config.n_layer, seed=0, step=0),
        one,
        one,
        one,
        one,
        packed=is_packed(batch),
    )
    stats: Any = lowered.compile().memory_analysis()
    peak = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    peak += stats.temp_size_in_bytes
    return sizes | {"work": float(peak - sum(sizes.values()))}


def count_bytes(tensor: Any) -> float:
    """The bytes of a declared tensor on each device."""
    shape = tensor.sharding.shard_shape(tensor.shape) if tensor.sharding else tensor.shape
    return float(BYTES[str(tensor.dtype)] * math.prod(shape))
