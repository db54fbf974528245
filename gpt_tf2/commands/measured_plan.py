"""What a step takes in memory under a plan: asked of XLA on JAX, predicted on TensorFlow."""

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from gpt_tf2.backend.memory import measure_own_memory, trim_heap
from gpt_tf2.commands.finetune_settings import FinetuneSettings, list_trained
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.data.batches import Batch, Batches, whole_rows
from gpt_tf2.training.memory import BYTES, MemoryPlan, predict_bytes

if TYPE_CHECKING:
    from gpt_tf2.training.devices import Devices

TRIED_BATCHES = 8  # batches of packed examples differ in shape


def measure_plan(
    settings: FinetuneSettings,
    config: GPT2Config,
    training: Batches | None,
    devices: "Devices",
    limit: float,
    plan: MemoryPlan,
) -> dict[str, float]:
    """The bytes of each kind at a step's peak: of each GPU, or of the whole process on a CPU.

    Args:
        settings: for all that the plan leaves open.
        training: the batches; None stands for running text.
        limit: bytes that a plan must fit into. Of one whose weights and optimizer state alone do not, only these are
            measured.
    """
    import keras

    if keras.backend.backend() != "jax":
        return predict_bytes(config, plan)
    import jax

    from gpt_tf2.training.compiled_step import StepGraph
    from gpt_tf2.training.optimizers import make_optimizer
    from gpt_tf2.training.step_memory import measure_bytes

    batch = choose_batch(settings, training, plan)
    settings = settings.with_plan(plan)
    trained = list_trained(settings, config)
    graph = StepGraph(
        config,
        settings.precision,
        settings.dropout,
        make_optimizer(settings.optimizer, settings.weight_decay),
        frozenset(trained),
        plan.remat,
        settings.clip_norm,
        devices,
    )
    sizes = measure_bytes(graph, trained, settings.held(), batch, settings.accumulate, limit, plan.int8)
    if "work" in sizes and settings.sample_every and settings.held() != settings.precision:
        # A sample runs between two steps, with the matrices in the precision of the computation.
        matrices = [shape for shape in tensor_shapes(config).values() if len(shape) == 2]
        sizes["work"] = max(sizes["work"], sum(BYTES[settings.precision] * math.prod(shape) for shape in matrices))
    if jax.default_backend() == "gpu":
        return sizes
    return {"libraries": measure_libraries()} | {kind: size * devices.count for kind, size in sizes.items()}


@functools.cache
def measure_libraries() -> float:
    """The bytes of this process, once it has compiled a step and before it holds a model."""
    trim_heap()
    return measure_own_memory()


def choose_batch(settings: FinetuneSettings, training: Batches | None, plan: MemoryPlan) -> Batch:
    """The largest of the run's first batches, or a stand-in if there is none or the plan is for smaller ones."""
    asked = settings.memory_plan(plan.precision)
    if training is None or (plan.sequences, plan.length) != (asked.sequences, asked.length):
        return whole_rows(np.zeros((plan.sequences * settings.accumulate, plan.length), "int32"))
    batches = (training.batch(settings.seed, step, settings.batch_size) for step in range(TRIED_BATCHES))
    return max(batches, key=lambda batch: (batch.tokens.size, batch.picks.size))
