"""What a training run takes in memory, predicted by kind, and which way of training fits.

The kinds are counted from the shapes; what the libraries themselves take was measured (docs/performance.md).
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from gpt_tf2.config import GPT2Config, adapter_shapes, tensor_shapes
from gpt_tf2.errors import InputError

LIBRARIES = 0.60e9  # Python, TensorFlow and Keras, imported
TRACES = 0.20e9  # graphs, compiled code and what the small pieces waste
POOLED = 1.12  # what pools take more than is asked of them, where memory need not be given back
CHUNK = 1 << 25  # logits at once, half a thousand tokens of GPT-2's vocabulary; half as many with remat
LORA_RANK = 8  # that is proposed
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes
SLOTS = {"adamw": 2, "adafactor": 0, "lion": 1, "muon": 1}  # numbers kept for each weight, nearly
PREFIXES = "KMGT"


@dataclasses.dataclass(frozen=True)
class Way:
    """How a model is trained, as far as memory depends on it.

    lora_rank: 0 where the weights themselves are trained. rows: that go through at once.
    """

    optimizer: str = "adamw"
    remat: bool = False
    lora_rank: int = 0
    precision: str = "bfloat16"
    rows: int = 1
    length: int = 1024
    gathers: bool = False  # all gradients before one update: accumulation, a bound of their norm, float16

    def flags(self) -> str:
        """The flags of `finetune` for it."""
        lora = f" --lora_rank {self.lora_rank}" if self.lora_rank else f" --optimizer {self.optimizer}"
        return f"--remat {'on' if self.remat else 'off'}{lora}"


def predict(config: GPT2Config, way: Way) -> dict[str, float]:
    """Bytes by kind at the peak of a step, of the whole process on a CPU."""
    width, tokens, n = WIDTH[way.precision], way.rows * way.length, config.n_embd
    shapes = tensor_shapes(config)
    matrices = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2)
    vectors = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 1)
    adapters = sum(map(math.prod, adapter_shapes(config, way.lora_rank).values())) if way.lora_rank else 0
    learning = adapters or matrices + vectors
    block, vocabulary = 12 * n * n, config.n_vocab * n
    scores = way.rows * config.n_head * way.length**2
    logits = min(CHUNK // (2 if way.remat else 1), tokens * config.n_vocab)
    # Of a block on the way back: four of the scores' size, what lies between its products, weights and gradients.
    back = width * (4 * scores + 30 * tokens * n + (1 if way.lora_rank else 2) * block)
    # The embedding in the width computed in, logits and softmax; its gradient, and its sum with another chunk's.
    own = 0 if way.lora_rank else vocabulary
    head = width * ((vocabulary if own or width == 4 else 0) + 2 * logits + own)
    updating = width * own + (4 * vocabulary if way.optimizer == "adafactor" and own else 0)
    kept = tokens * n if way.remat else 3 * scores // 2 + 19 * tokens * n + (0 if way.lora_rank else block)
    found = {
        "libraries": LIBRARIES + TRACES,
        "weights": (width if way.lora_rank else 4) * matrices + 4 * (vectors + adapters),
        "optimizer": 4.0 * SLOTS[way.optimizer] * learning,
        "gradients": 4.0 * learning if way.gathers else width * own,
        "activations": float(width * config.n_layer * kept),
        "work": float(max(head, back, updating)),
    }
    return found if way.remat else found | {"pools": (POOLED - 1) * sum(found.values())}


def total(config: GPT2Config, way: Way) -> float:
    """The predicted peak in bytes."""
    return sum(predict(config, way).values())


def ways(asked: Way, remat: str, free: bool) -> Iterator[Way]:
    """A way and those to try after it, each smaller.

    Args:
        remat: on, off or auto, which tries both. free: whether then Adafactor and LoRA are tried.
    """
    for on in [remat == "on"] if remat != "auto" else [False, True]:
        yield dataclasses.replace(asked, remat=on)
    if free and not asked.lora_rank:
        yield dataclasses.replace(asked, remat=True, optimizer="adafactor")
        yield dataclasses.replace(asked, remat=True, optimizer="adamw", lora_rank=LORA_RANK)


def choose(config: GPT2Config, asked: Way, memory: float, remat: str = "auto", free: bool = False) -> Way:
    """The first of the ways that fits into `memory` bytes.

    Raises InputError if none does, with the setting that would.
    """
    tried = list(ways(asked, remat, free))
    for way in tried:
        if total(config, way) <= memory:
            return way
    needed = f"{total(config, tried[-1]) / 1e9:.1f} GB are needed ({tried[-1].flags()})"
    raise InputError(f"{needed}, {memory / 1e9:.1f} GB are there: {mend(config, asked, memory)}")


def mend(config: GPT2Config, asked: Way, memory: float) -> str:
    """What would fit."""
    for way in ways(asked, "auto", True):
        if total(config, way) <= memory:
            return f"give {way.flags()}"
    shorter = dataclasses.replace(asked, remat=True, lora_rank=asked.lora_rank or LORA_RANK, rows=1, length=128)
    if total(config, shorter) <= memory:
        return f"give {shorter.flags()} and a smaller --batch_size or --length"
    return "take a smaller --model"


def parse_memory(text: str) -> float:
    """`11GB`, `500MB` or `24GiB` in bytes. Raises InputError if it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I)?)?B?", text.strip().upper())
    if not found:
        raise InputError(f"--memory {text}: give a size as 11GB, or auto")
    power = PREFIXES.index(found[2]) + 1 if found[2] else 0
    return float(found[1]) * (1024 if found[3] else 1000) ** power
