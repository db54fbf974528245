"""`plan`: which ways of fine-tuning a model fit into a memory, and what each takes."""

import dataclasses
from typing import Any

from gpt_tf2.commands.finetune_settings import OPTIMIZERS
from gpt_tf2.commands.flags import flag, format_flags
from gpt_tf2.config import SIZES
from gpt_tf2.errors import InputError
from gpt_tf2.training.memory import LORA_RANK, MemoryPlan, parse_memory, predict_bytes


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """The flags of `plan`."""

    model: str = flag("124M", "the size", choices=tuple(SIZES))
    memory: str | None = flag(None, "what may be taken, as 11GB (all ways are shown)")
    batch_size: int = flag(1, "rows a step", kind=int)
    length: int = flag(1024, "tokens a row", kind=int)
    precision: str = flag("bfloat16", "what is computed in", choices=("float32", "bfloat16", "float16"))

    def __post_init__(self) -> None:
        """Raises InputError if a value is out of range."""
        if self.batch_size < 1:
            raise InputError(f"--batch_size {self.batch_size}: give at least 1")
        if not 2 <= self.length <= SIZES[self.model].n_ctx:
            raise InputError(f"--length {self.length}: give 2 to {SIZES[self.model].n_ctx}")
        if self.memory is not None:
            parse_memory(self.memory)


def plan(settings: PlanSettings) -> list[tuple[MemoryPlan, dict[str, float]]]:
    """Every way of training, with its predicted bytes by kind."""
    same: dict[str, Any] = {
        "precision": settings.precision,
        "sequences": settings.batch_size,
        "length": settings.length,
    }
    same["collects"] = settings.precision == "float16"
    plans = [MemoryPlan(optimizer, remat, **same) for optimizer in OPTIMIZERS for remat in (False, True)]
    plans += [MemoryPlan("adamw", remat, LORA_RANK, **same) for remat in (False, True)]
    return [(plan, predict_bytes(SIZES[settings.model], plan)) for plan in plans]


def table(settings: PlanSettings) -> str:
    """The ways as lines, the largest first, with what fits marked."""
    memory = parse_memory(settings.memory) if settings.memory else None
    plans = sorted(plan(settings), key=lambda predicted: -sum(predicted[1].values()))
    kinds = list(dict.fromkeys(kind for _, bytes_of in plans for kind in bytes_of))
    width = max(len(format_flags(plan.settings())) for plan, _ in plans)
    lines = [" ".join([" " * width, *(f"{kind:>11}" for kind in kinds), f"{'GB in all':>11}"])]
    for plan_, bytes_of in plans:
        total = sum(bytes_of.values())
        figures = [f"{bytes_of.get(kind, 0) / 1e9:11.2f}" for kind in kinds]
        mark = "" if memory is None else "  fits" if total <= memory else "  too much"
        lines.append(" ".join([f"{format_flags(plan_.settings()):{width}}", *figures, f"{total / 1e9:11.2f}"]) + mark)
    return "\n".join(lines)
