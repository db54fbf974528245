"""`plan`: the memory that each way of fine-tuning a model takes, and what fits."""

import dataclasses
import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.commands.finetune_settings import OPTIMIZERS, FinetuneSettings
from gpt_tf2.commands.flags import check_ranges, flag, format_flags
from gpt_tf2.commands.measured_plan import measure_plan
from gpt_tf2.commands.progress import Counter
from gpt_tf2.config import SIZES
from gpt_tf2.errors import InputError
from gpt_tf2.training.memory import LORA_RANK, MemoryPlan, parse_memory


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
    """Every way of training, with its bytes by kind: on JAX those that XLA says, which compiles the steps for it."""
    start_backend()
    from gpt_tf2.training.devices import ONE_DEVICE

    shared: dict[str, Any] = {
        "precision": settings.precision,
        "sequences": settings.batch_size,
        "length": settings.length,
        "collects": settings.precision == "float16",
    }
    plans = [MemoryPlan(optimizer, remat, **shared) for optimizer in OPTIMIZERS for remat in (False, True)]
    plans += [MemoryPlan("adamw", remat, LORA_RANK, **shared) for remat in (False, True)]
    run = FinetuneSettings(data="", batch_size=settings.batch_size, length=settings.length)
    measure = functools.partial(measure_plan, run, SIZES[settings.model], None, ONE_DEVICE, math.inf)
    workers = max(1, (os.cpu_count() or 1) // 4)  # a compilation keeps several cores busy
    with Counter("measuring", "plans", stderr=True) as counter, ThreadPoolExecutor(workers) as threads:
        rows = []
        for candidate, sizes in zip(plans, threads.map(measure, plans), strict=True):
            rows.append((candidate, sizes))
            counter.show(len(rows), len(plans))
    return rows


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


def print_plan(settings: PlanSettings) -> None:
    """Prints the table of all plans."""
    print(table(settings))
