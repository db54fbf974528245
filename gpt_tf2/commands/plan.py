"""`plan`: the memory that each way of fine-tuning a model takes, and what fits."""

import dataclasses
from typing import Any

from gpt_tf2.commands.finetune_settings import OPTIMIZERS
from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.config import SIZES
from gpt_tf2.errors import InputError
from gpt_tf2.training.memory import LORA_RANK, Way, parse_memory, predict


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """The settings of `plan`."""

    model: str = flag("124M", "size of the model", choices=tuple(SIZES))
    memory: str | None = flag(None, "memory limit, such as 11GB: marks what fits")
    batch_size: int = flag(1, "sequences per step", kind=int, at_least=1)
    length: int = flag(1024, "tokens per sequence", kind=int, at_least=2)
    precision: str = flag("bfloat16", "precision of the computation", choices=("float32", "bfloat16", "float16"))

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.length > SIZES[self.model].n_ctx:
            raise InputError(f"use 2 to {SIZES[self.model].n_ctx}", "length", self.length)
        if self.memory is not None:
            parse_memory(self.memory)


def plan(settings: PlanSettings) -> list[tuple[Way, dict[str, float]]]:
    """Every way of training, with its predicted bytes by kind."""
    same: dict[str, Any] = {"precision": settings.precision, "rows": settings.batch_size, "length": settings.length}
    same["gathers"] = settings.precision == "float16"
    found = [Way(optimizer, remat, **same) for optimizer in OPTIMIZERS for remat in (False, True)]
    found += [Way("adamw", remat, LORA_RANK, **same) for remat in (False, True)]
    return [(way, predict(SIZES[settings.model], way)) for way in found]


def table(settings: PlanSettings) -> str:
    """The ways as lines, the largest first, with what fits marked."""
    memory = parse_memory(settings.memory) if settings.memory else None
    ways = sorted(plan(settings), key=lambda found: -sum(found[1].values()))
    kinds = list(dict.fromkeys(kind for _, bytes_of in ways for kind in bytes_of))
    width = max(len(way.flags()) for way, _ in ways)
    lines = [" ".join([" " * width, *(f"{kind:>11}" for kind in kinds), f"{'GB in all':>11}"])]
    for way, bytes_of in ways:
        total = sum(bytes_of.values())
        figures = [f"{bytes_of.get(kind, 0) / 1e9:11.2f}" for kind in kinds]
        mark = "" if memory is None else "  fits" if total <= memory else "  too much"
        lines.append(" ".join([f"{way.flags():{width}}", *figures, f"{total / 1e9:11.2f}"]) + mark)
    return "\n".join(lines)
