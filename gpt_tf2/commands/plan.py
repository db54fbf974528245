"""`plan`: the memory that each way of fine-tuning a model takes, and what fits."""

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpt_tf2.backend.starting import start_backend
from gpt_tf2.commands.find_model import find_config
from gpt_tf2.commands.finetune_settings import LENGTH, OPTIMIZERS, FinetuneSettings
from gpt_tf2.commands.measured_plan import measure_plan
from gpt_tf2.commands.plan_settings import PlanSettings
from gpt_tf2.commands.progress import Counter
from gpt_tf2.errors import InputError
from gpt_tf2.training.memory import LORA_RANK, MemoryPlan, parse_memory

INT8 = "--base_precision int8"


def plan(settings: PlanSettings) -> list[tuple[MemoryPlan, dict[str, float]]]:
    """Every way of training, with its bytes by kind: on JAX those that XLA says, which compiles the steps for it.

    Raises InputError if there is no such model, or if it has fewer positions than `length`.
    """
    config = find_config(settings.model)
    length = settings.length or min(LENGTH, config.n_ctx)
    if length > config.n_ctx:
        raise InputError(f"use 2 to {config.n_ctx}", "length", length)
    start_backend()
    from gpt_tf2.training.devices import ONE_DEVICE

    shared: dict[str, Any] = {
        "precision": settings.precision,
        "sequences": settings.batch_size,
        "length": length,
        "collects": settings.precision == "float16",
    }
    plans = [MemoryPlan(optimizer, remat, **shared) for optimizer in OPTIMIZERS for remat in (False, True)]
    plans += [
        MemoryPlan("adamw", remat, LORA_RANK, int8=int8, **shared) for int8 in (False, True) for remat in (False, True)
    ]
    run = FinetuneSettings(data="", batch_size=settings.batch_size, length=length)
    measure = functools.partial(measure_plan, run, config, None, ONE_DEVICE, math.inf)
    workers = max(1, (os.cpu_count() or 1) // 4)  # a compilation keeps several cores busy
    with Counter("measuring", "plans", stderr=True) as counter, ThreadPoolExecutor(workers) as threads:
        rows = []
        for candidate, sizes in zip(plans, threads.map(measure, plans), strict=True):
            rows.append((candidate, sizes))
            counter.show(len(rows), len(plans))
    return rows


def table(settings: PlanSettings) -> str:
    """A table of all plans in GB, largest first, 60 columns wide; those that fit are marked."""
    rows = sorted(plan(settings), key=lambda row: -sum(row[1].values()))
    limit = parse_memory(settings.memory) if settings.memory else None
    width = len("--optimizer adafactor")
    lines = [f"{'GB':{width}} {'--remat':>7} {'weights':>7} {'state':>6} {'step':>6} {'total':>6}"]
    for candidate, sizes in rows:
        flags = f"--lora_rank {LORA_RANK}" if candidate.lora_rank else f"--optimizer {candidate.optimizer}"
        flags = INT8 if candidate.int8 else flags
        weights, state, total = sizes.get("weights", 0), sizes.get("optimizer", 0), sum(sizes.values())
        figures = [f"{weights / 1e9:7.2f}", *(f"{size / 1e9:6.2f}" for size in (state, total - weights - state, total))]
        fits = "*" if limit is not None and total <= limit else ""
        lines.append(
            " ".join([f"{flags:{width}}", f"{'on' if candidate.remat else 'off':>7}", *figures, fits]).rstrip()
        )
    lines.append(f"{INT8}: with --lora_rank {LORA_RANK}")
    lines.append("state: of the optimizer; step: activations and all the rest")
    return "\n".join(lines + ([f"* fits into {settings.memory}"] if limit is not None else []))


def print_plan(settings: PlanSettings) -> None:
    """Prints the table of all plans."""
    print(table(settings))
