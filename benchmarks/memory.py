"""Measures the peak memory of fine-tuning at every size: gpt-tf2 and transformers, on one batch of 1 × 1024 tokens.

Every run is a fresh process that takes --steps steps with random weights of the true shapes. The peak is that of the
whole process in GB (10⁹ bytes), and on a GPU also that of the device. gpt-tf2 runs with --remat=on, in the precision
that --precision=auto chooses; `int8` is LoRA with --base_precision=int8. transformers runs under autocast to bfloat16
with gradient checkpointing and torch's optimizer of the same name; its LoRA is peft's, without an `int8`. A run that
exceeds --limit is stopped.

    python benchmarks/memory.py [--sizes 124M 355M 774M 1558M] [--ways adamw adafactor lora int8]
    KERAS_BACKEND=jax python benchmarks/memory.py --steps 10    # on a GPU
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import psutil

from processes import Row, peaks, rows_of, write_rows

LENGTH, RATE = 1024, {"adamw": 1e-4, "adafactor": 1e-2, "lora": 1e-3, "int8": 1e-3}
SYSTEMS = ("gpt-tf2", "transformers")


def batch() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50257, (1, LENGTH))


def ours(size: str, way: str) -> tuple[str, Callable[[], float]]:
    """The precision, and a function that takes a training step and returns the loss."""
    from gpt_tf2.backend.hardware import has_fast_bfloat16
    from gpt_tf2.backend.starting import start_backend

    start_backend(lean=True)
    precision = "bfloat16" if has_fast_bfloat16() else "float32"
    from gpt_tf2.config import SIZES, adapter_shapes
    from gpt_tf2.data.batches import whole_rows
    from gpt_tf2.model import GPT2
    from gpt_tf2.training.lora import add_adapters
    from gpt_tf2.training.optimizers import make_optimizer
    from gpt_tf2.training.trainer import make_trainer

    config = SIZES[size]
    if way in ("lora", "int8"):
        model = GPT2(config, dtype=precision, int8=way == "int8")
        trained = adapter_shapes(config, rank=8)
        add_adapters(model, trained)
    else:
        policy = "float32" if precision == "float32" else f"mixed_{precision}"
        model, trained = GPT2(config, dtype=policy), None
    trainer = make_trainer(model, make_optimizer("adamw" if way in ("lora", "int8") else way, 0.0), trained, remat=True)
    data = whole_rows(batch())
    return precision, lambda: float(trainer.step(data, RATE[way]))


def transformers(size: str, way: str) -> tuple[str, Callable[[], float]]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from gpt_tf2.config import SIZES

    torch.set_num_threads(os.cpu_count() or 1)
    config = SIZES[size]
    shape = {"n_embd": config.n_embd, "n_layer": config.n_layer, "n_head": config.n_head}
    model = GPT2LMHeadModel(GPT2Config(**shape, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)).train()
    if way == "lora":
        from peft import LoraConfig, get_peft_model

        model = model.to(torch.bfloat16)
        model.enable_input_require_grads()
        targets = ["c_attn", "c_proj", "c_fc"]
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=8, target_modules=targets, fan_in_fan_out=True))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    model.gradient_checkpointing_enable()
    kinds = {"adamw": torch.optim.AdamW, "lora": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}
    optimizer = kinds[way]([p for p in model.parameters() if p.requires_grad], lr=RATE[way], weight_decay=0)
    ids = torch.from_numpy(batch()).to(device)

    def step() -> float:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return "bfloat16", step


def measure(system: str, size: str, way: str, steps: int) -> None:
    """Takes the steps in this process and prints their figures as JSON."""
    precision, step = {"gpt-tf2": ours, "transformers": transformers}[system](size, way)
    losses, seconds = [], []
    for _ in range(steps):
        began = time.monotonic()
        losses.append(step())
        seconds.append(time.monotonic() - began)
    if not losses[-1] < losses[0]:
        raise SystemExit(f"the loss did not fall: {losses}")
    figures = {**peaks(), "seconds a step": min(seconds), "first loss": losses[0], "loss": losses[-1]}
    print(json.dumps({"precision": precision, **figures}))


def run_below(limit: float, *arguments: str) -> dict:
    """Runs this script in a fresh process, and stops it when its memory exceeds `limit` GB."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(0.05)
        try:
            over = watched.memory_info().rss > limit * 1e9
        except psutil.NoSuchProcess:
            break
        if over:
            process.kill()
            process.communicate()
            return {"precision": "", "peak GB": math.inf}
    out, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed ({process.returncode}):\n{errors[-2000:]}")
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["124M", "355M", "774M", "1558M"])
    parser.add_argument("--ways", nargs="+", default=["adamw", "adafactor", "lora", "int8"])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--steps", type=int, default=2, help="training steps per run (default: 2)")
    parser.add_argument(
        "--limit",
        type=float,
        default=0.93 * psutil.virtual_memory().available / 1e9,
        help="most GB per run (default: 93 %% of the available memory)",
    )
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--one", nargs=3, metavar=("SYSTEM", "SIZE", "WAY"), help="take the steps in this process")
    flags = parser.parse_args()
    if flags.one:
        return measure(*flags.one, flags.steps)
    rows: list[Row] = []
    for way in flags.ways:
        for size in flags.sizes:
            for system in flags.systems if way != "int8" else ["gpt-tf2"]:
                figures = run_below(flags.limit, f"--steps={flags.steps}", "--one", system, size, way)
                precision = figures.pop("precision")
                rows += rows_of(f"{size} {way} 1x{LENGTH}", system, precision, figures)
                write_rows(flags.json, rows)
                if math.isinf(figures["peak GB"]):
                    print(f"{way} {size} {system}: more than {flags.limit:.1f} GB", flush=True)
                    continue
                on_gpu = f", {figures['peak GPU GB']:.2f} GB on the GPU" if "peak GPU GB" in figures else ""
                print(
                    f"{way} {size} {system}, {precision}: {figures['peak GB']:.2f} GB{on_gpu}, "
                    f"{figures['seconds a step']:.1f} s per step, "
                    f"loss {figures['first loss']:.3f} → {figures['loss']:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
