"""The memory planner: what a training run takes, predicted by kind, and the first plan that fits.

The prediction is for TensorFlow on a CPU: sizes are counted from the shapes; what the libraries take was measured
(docs/performance.md). On JAX the planner asks XLA instead (`step_memory.py`).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator

from gpt_tf2.config import GPT2Config, adapter_shapes, scale_shapes, tensor_shapes
from gpt_tf2.errors import InputError
from gpt_tf2.training.chunks import count_chunk_logits

LIBRARIES = 0.60e9  # bytes: Python, TensorFlow and Keras, imported
TRACES = 0.20e9  # bytes: graphs, compiled code and fragmentation
POOLED = 1.12  # allocated / used, where oneDNN keeps what it frees in pools
LORA_RANK = 8  # the suggested one
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}  # per number
STATE_PER_WEIGHT = {"adamw": 2, "adafactor": 0, "lion": 1, "muon": 1}  # float32 numbers that an optimizer keeps, nearly
UNITS = "KMGT"

Measure = Callable[["MemoryPlan"], float]  # a plan's peak in bytes


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """How a model is trained, as far as memory depends on it.

    remat: activation checkpointing.
    lora_rank: 0 where the weights themselves are trained.
    sequences: that go through the network at a time.
    length: tokens per sequence.
    collects: whether all gradients are computed before the first update: for accumulation, clipping and float16.
    freezes: whether LoRA, which freezes all weights, cannot replace this plan: parts are frozen, or tokens are added.
    int8: whether LoRA's frozen matrices are held in int8.
    """

    optimizer: str = "adamw"
    remat: bool = False
    lora_rank: int = 0
    precision: str = "bfloat16"
    sequences: int = 1
    length: int = 1024
    collects: bool = False
    freezes: bool = False
    int8: bool = False

    def settings(self) -> dict[str, str]:
        """Return the settings of `finetune` that tell this plan from others, by name."""
        remat = {"remat": "on" if self.remat else "off"}
        base = {"base_precision": "int8"} if self.int8 else {}
        return remat | ({"lora_rank": str(self.lora_rank)} if self.lora_rank else {"optimizer": self.optimizer}) | base


def predict_bytes(config: GPT2Config, plan: MemoryPlan) -> dict[str, float]:
    """Predict the bytes of each kind at a step's peak, for the whole process on a CPU."""
    width, tokens, n = BYTES[plan.precision], plan.sequences * plan.length, config.n_embd
    shapes = tensor_shapes(config)
    matrices = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2)
    vectors = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 1)
    adapters = sum(map(math.prod, adapter_shapes(config, plan.lora_rank).values())) if plan.lora_rank else 0
    trained = adapters or matrices + vectors
    block, vocabulary = 12 * n * n, config.n_vocab * n
    scores = plan.sequences * config.n_head * plan.length**2
    logits = min(count_chunk_logits(plan.remat), tokens * config.n_vocab)
    # One block's backward pass: four arrays of the scores' size, activations between products, weights and gradients.
    backward = width * (4 * scores + 30 * tokens * n + (1 if plan.lora_rank else 2) * block)
    # The embedding in the precision computed in, logits and softmax; its gradient, and its sum with the next chunk's.
    embedding = 0 if plan.lora_rank else vocabulary
    head = width * ((vocabulary if embedding or width == 4 else 0) + 2 * logits + embedding)
    update = width * embedding + (4 * vocabulary if plan.optimizer == "adafactor" and embedding else 0)
    kept = tokens * n if plan.remat else 3 * scores // 2 + 19 * tokens * n + (0 if plan.lora_rank else block)
    quantized = config.n_layer * block if plan.int8 else 0
    scales = sum(map(math.prod, scale_shapes(config).values())) if plan.int8 else 0
    held = (width if plan.lora_rank else 4) * (matrices - quantized) + quantized
    sizes = {
        "libraries": LIBRARIES + TRACES,
        "weights": held + 4 * (vectors + adapters + scales),
        "optimizer": 4.0 * STATE_PER_WEIGHT[plan.optimizer] * trained,
        "gradients": 4.0 * trained if plan.collects else width * embedding,
        "activations": float(width * config.n_layer * kept),
        "work": float(max(head, backward, update)),
    }
    return sizes if plan.remat else sizes | {"pools": (POOLED - 1) * sum(sizes.values())}


def predict_total(config: GPT2Config, plan: MemoryPlan) -> float:
    """Predict the peak in bytes."""
    return sum(predict_bytes(config, plan).values())


def candidates(asked: MemoryPlan, remat: str, flexible: bool) -> Iterator[MemoryPlan]:
    """Yield the plan asked for, then plans that take less, from the fastest to the smallest.

    Args:
        remat: on, off, or auto to try both.
        flexible: whether Adafactor, LoRA and an int8 base may replace what was asked for.
    """
    for on in [remat == "on"] if remat != "auto" else [False, True]:
        yield dataclasses.replace(asked, remat=on)
    if flexible and not asked.lora_rank:
        yield dataclasses.replace(asked, remat=True, optimizer="adafactor")
    if flexible and not asked.lora_rank and not asked.freezes:
        asked = dataclasses.replace(asked, remat=True, optimizer="adamw", lora_rank=LORA_RANK)
        yield asked
    if flexible and asked.lora_rank and not asked.int8:
        yield dataclasses.replace(asked, remat=True, int8=True)


def choose_plan(
    measure: Measure, asked: MemoryPlan, memory: float, remat: str = "auto", flexible: bool = False
) -> MemoryPlan:
    """Return the first of the `candidates` that fits into `memory` bytes.

    Args:
        measure: tells a plan's peak in bytes.

    Raises InputError if none does, with the settings that would.

    Example:
        >>> choose_plan(functools.partial(predict_total, SIZES["774M"]), MemoryPlan(), memory=11e9).remat
        True
    """
    tried = list(candidates(asked, remat, flexible))
    for plan in tried:
        if measure(plan) <= memory:
            return plan
    needed = f"{measure(tried[-1]) / 1e9:.1f} GB ({list_settings(tried[-1].settings())})"
    fix = suggest_fix(measure, asked, tried[-1], memory)
    raise InputError(f"needs {needed}, but {memory / 1e9:.1f} GB is available: {fix}")


def suggest_fix(measure: Measure, asked: MemoryPlan, tried: MemoryPlan, memory: float) -> str:
    """Say which settings would fit, naming those that differ from what was tried last."""

    def changes(plan: MemoryPlan) -> str:
        before = tried.settings()
        return list_settings({name: value for name, value in plan.settings().items() if before.get(name) != value})

    for plan in candidates(asked, "auto", True):
        if measure(plan) <= memory:
            return f"try {changes(plan)}"
    rank = asked.lora_rank or (0 if asked.freezes else LORA_RANK)
    for int8 in sorted({asked.int8, rank > 0}):
        smallest = dataclasses.replace(asked, remat=True, lora_rank=rank, int8=int8, sequences=1, length=128)
        if measure(smallest) <= memory:
            return "try " + " and ".join(filter(None, [changes(smallest), "a smaller `batch_size` or `length`"]))
    return "use a smaller `model`"


def list_settings(settings: dict[str, str]) -> str:
    """Write settings for an error: `` `remat` on, `optimizer` adamw ``."""
    return ", ".join(f"`{name}` {value}" for name, value in settings.items())


def parse_memory(text: str) -> float:
    """Return the bytes of a size such as `11GB`, `500MB` or `24GiB`. Raises InputError if it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I)?)?B?", text.strip().upper())
    if not match:
        raise InputError("use a size such as 11GB, or auto", "memory", text)
    power = UNITS.index(match[2]) + 1 if match[2] else 0
    return float(match[1]) * (1024 if match[3] else 1000) ** power
