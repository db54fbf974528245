"""`plan`: the memory that each way of fine-tuning a model takes, and what fits."""

import dataclasses
from typing import Any

from gpt_tf2.commands.finetune_settings import OPTIMIZERS
from gpt_tf2.commands.flags import check_ranges, flag, format_flags
from gpt_tf2.config import SIZES
from gpt_tf2.errors import InputError
from gpt_tf2.training.memory import LORA_RANK, MemoryPlan, parse_memory, predict_bytes


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


def plan(settings: PlanSettings) -> list[tuple[MemoryPlan, dict[str, float]]]:
    """Every way of training, with its predicted bytes by kind."""
    shared: dict[str, Any] = {
        "precision": settings.precision,
        "sequences": settings.batch_size,
        "length": settings.length,
        "collects": settings.precision == "float16",
    }
    plans = [MemoryPlan(optimizer, remat, **shared) for optimizer in OPTIMIZERS for remat in (False, True)]
    plans += [MemoryPlan("adamw", remat, LORA_RANK, **shared) for remat in (False, True)]
    return [(plan, predict_bytes(SIZES[settings.model], plan)) for plan in plans]


def table(settings: PlanSettings) -> str:
    """A table of all plans, largest first; those that fit are marked."""
    memory = parse_memory(settings.memory) if settings.memory else None
    rows = [(format_flags(candidate.settings()), sizes) for candidate, sizes in plan(settings)]
    rows.sort(key=lambda row: -sum(row[1].values()))
    kinds = list(dict.fromkeys(kind for _, sizes in rows for kind in sizes))
    width = max(len(flags) for flags, _ in rows)
    lines = [" ".join([" " * width, *(f"{kind:>11}" for kind in kinds), f"{'GB in all':>11}"])]
    for flags, sizes in rows:
        total = sum(sizes.values())
        figures = [f"{sizes.get(kind, 0) / 1e9:11.2f}" for kind in kinds]
        mark = "" if memory is None else "  fits" if total <= memory else "  too much"
        lines.append(" ".join([f"{flags:{width}}", *figures, f"{total / 1e9:11.2f}"]) + mark)
    return "\n".join(lines)
