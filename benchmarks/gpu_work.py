"""What `gpu.py` measures, each in a process of its own, which warms up and waits for its turn.

    python benchmarks/gpu_work.py WORK SYSTEM [--tiny]    # in the folder that `gpu.py` has prepared

Prints `ready` once everything is compiled. After a line on stdin it measures, and prints its figures as JSON.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Figures = dict[str, Any]
Measure = Callable[[], Figures]
ROOT = Path(__file__).parent.parent
ROUNDS = 3  # of which the median counts
NUCLEUS = 0.8
DENSE_PEAKS = {"H100": 989e12, "H200": 989e12}  # FLOP/s in bfloat16, by the vendor's datasheets


@dataclasses.dataclass(frozen=True)
class Training:
    """Steps on random tokens, or on made-up stories with the loss on the summary, packed."""

    model: str
    rows: int
    length: int = 1024
    steps: int = 10  # in a round
    stories: bool = False
    remat: bool = False
    lora_rank: int = 0
    systems: tuple[str, ...] = ("gpt-tf2", "transformers", "keras-hub")


@dataclasses.dataclass(frozen=True)
class Generation:
    """Random prompts, each continued from a nucleus."""

    model: str
    rows: int
    prompt: int = 128
    new: int = 200
    systems: tuple[str, ...] = ("gpt-tf2", "transformers", "keras-hub")


@dataclasses.dataclass(frozen=True)
class Logits:
    """float32 logits, compared with those of OpenAI's graph."""

    model: str = "tiny"
    systems: tuple[str, ...] = ("gpt-tf2",)


Work = Training | Generation | Logits
OURS = ("gpt-tf2",)
WORKS: dict[str, Work] = {
    "train-8x1024": Training("124M", 8),
    "train-32x1024": Training("124M", 32, steps=4, systems=OURS),
    "train-1x1024": Training("124M", 1, steps=30),
    "train-stories": Training("124M", 8, stories=True, systems=OURS),
    "train-1558M": Training("1558M", 4, steps=3, remat=True, systems=OURS),
    "train-1558M-lora": Training("1558M", 1, steps=3, remat=True, lora_rank=8, systems=OURS),
    "generate-1": Generation("124M", 1),
    "generate-64": Generation("124M", 64),
    "generate-1558M": Generation("1558M", 1, systems=OURS),
    "logits": Logits(),
}


def shrink(work: Work) -> Work:
    """The same work in shapes that a CPU runs in a second."""
    if isinstance(work, Training):
        length = work.length if work.stories else 64
        return dataclasses.replace(work, rows=min(work.rows, 2), length=length, steps=2)
    if isinstance(work, Generation):
        return dataclasses.replace(work, rows=min(work.rows, 3), prompt=16, new=8)
    return work


def model_shape(model: str) -> dict[str, int]:
    """The shape of a model in the folder, by transformers' names."""
    config = json.loads(Path("models", model, "config.json").read_text(encoding="utf-8"))
    return {name: config[name] for name in ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size")}


def train_ours(work: Training) -> Measure:
    """The trainer that `finetune` builds, on batches made ahead: the bare step. And the memory that it planned."""
    from gpt_tf2.commands.finetune import build
    from gpt_tf2.commands.finetune_settings import FinetuneSettings
    from gpt_tf2.commands.run import resolve
    from gpt_tf2.data.batches import StreamWindows
    from training import packed_stories

    wait_for(Path("models", work.model, "model.safetensors"))
    settings = FinetuneSettings(
        data="text.txt",
        model=work.model,
        batch_size=work.rows,
        length=work.length,
        precision="bfloat16",
        remat="on" if work.remat else "off",
        lora_rank=work.lora_rank,
    )
    run = resolve(settings)
    _, trainer, _ = build(run)
    if work.stories:
        data: Any = packed_stories(40 * work.rows, work.length, multiple=work.length // 4)
    else:
        data = StreamWindows([np.random.default_rng(0).integers(0, 50256, 1 << 20)], work.length)
    batches = [data.batch(0, step, work.rows) for step in range(work.steps)]

    def take_steps() -> float:
        loss: Any = 0.0
        for step, batch in enumerate(batches):
            loss = trainer.step(batch, 1e-4, 0, step)
        return float(loss)  # waits for the device

    measure = time_training(work, sum(batch.size for batch in batches), take_steps, jax_peak)
    return measure if work.stories else lambda: measure() | {"planned GB": run.step_bytes / 1e9}


def train_transformers(work: Training) -> Measure:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    config = GPT2Config(**model_shape(work.model), attn_pdrop=0, embd_pdrop=0, resid_pdrop=0, use_cache=False)
    with torch.device(device):
        plain = GPT2LMHeadModel._from_config(config, attn_implementation="sdpa").train()
    model = torch.compile(plain) if device == "cuda" else plain
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4, weight_decay=0, fused=True)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 50256, (work.rows, work.length))).to(device)

    def take_steps() -> float:
        for _ in range(work.steps):
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()  # waits for the device

    return time_training(work, work.steps * ids.numel(), take_steps, torch_peak)


def train_keras_hub(work: Training) -> Measure:
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras_hub_model(work.model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss=loss, weighted_metrics=[], jit_compile=True)
    ids = np.random.default_rng(0).integers(0, 50256, (work.steps * work.rows, work.length), "int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids, "bool")}
    targets = np.roll(ids, -1, 1)

    def take_steps() -> float:
        # Keras's own fit: keras-hub's would prepare the data with TensorFlow, which the machine may lack.
        history = keras.Model.fit(model, inputs, targets, batch_size=work.rows, shuffle=False, verbose=0)
        return float(history.history["loss"][-1])

    return time_training(work, ids.size, take_steps, jax_peak)


def time_training(work: Training, tokens: int, take_steps: Callable[[], float], peak: Callable[[], Figures]) -> Measure:
    """Warms up, and returns what measures `tokens` tokens, the steps of a round."""
    for _ in range(2):
        first = take_steps()

    def measure() -> Figures:
        seconds, losses = [], [first]
        for _ in range(ROUNDS):
            began = time.monotonic()
            losses.append(take_steps())
            seconds.append(time.monotonic() - began)
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"the loss is {losses}")
        speed = tokens / statistics.median(seconds)
        share = share_of_peak(work, speed)
        return {"tokens/s": speed, "share of peak": share, **peak(), "first loss": losses[0], "last loss": losses[-1]}

    return measure


def share_of_peak(work: Training, tokens_per_second: float) -> float | None:
    """Model FLOP/s over the GPU's dense bfloat16 peak; None on a device whose peak is unknown.

    A token costs 6·(12·L·C² + V·C) + 12·L·C·T FLOP: six per weight that multiplies it, and attention over the whole
    length T. Recomputed activations do not count.
    """
    shape = model_shape(work.model)
    layers, width, vocabulary = shape["n_layer"], shape["n_embd"], shape["vocab_size"]
    flop = 6 * (12 * layers * width**2 + vocabulary * width) + 12 * layers * width * work.length
    name = device_name()
    return next((flop * tokens_per_second / peak for kind, peak in DENSE_PEAKS.items() if kind in name), None)


def generate_ours(work: Generation) -> Measure:
    """The decoder and scheduler of `generate`."""
    from gpt_tf2.commands.decoders import find_model, load_decoder
    from gpt_tf2.commands.generate import GenerateSettings
    from gpt_tf2.generation.scheduler import Request
    from gpt_tf2.generation.scheduling import make_scheduler

    wait_for(Path("models", work.model, "model.safetensors"))
    settings = GenerateSettings(
        f"models/{work.model}", max_new_tokens=work.new, top_p=NUCLEUS, batch_size=work.rows, precision="bfloat16"
    )
    decoder, sampler = load_decoder(settings, *find_model(settings)), settings.sampler()

    def generate(seed: int) -> int:
        completions: list[list[int]] = [[] for _ in range(work.rows)]
        requests = [
            Request(ids, work.new, sampler, np.random.default_rng([seed, i]), completion.append)
            for i, (ids, completion) in enumerate(zip(random_prompts(work), completions, strict=True))
        ]
        make_scheduler(decoder, sampler, end=-1, slots=work.rows).run_all(requests)
        return sum(map(len, completions))

    return time_generation(work, generate, jax_peak)


def generate_transformers(work: Generation) -> Measure:
    """With a static cache, whose decoding step transformers compiles on a GPU."""
    import torch
    from transformers import GPT2LMHeadModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT2LMHeadModel.from_pretrained(Path("models", work.model), dtype=torch.bfloat16).to(device).eval()
    ids = torch.tensor(random_prompts(work), device=device)
    settings = {"do_sample": True, "top_p": NUCLEUS, "top_k": 0, "pad_token_id": 50256}
    lengths = {"max_new_tokens": work.new, "min_new_tokens": work.new}

    def generate(seed: int) -> int:
        with torch.no_grad():
            result = model.generate(
                ids, attention_mask=torch.ones_like(ids), cache_implementation="static", **settings, **lengths
            )
        return int(result.cpu().shape[1] - ids.shape[1]) * work.rows

    return time_generation(work, generate, torch_peak)


def generate_keras_hub(work: Generation) -> Measure:
    import keras
    import keras_hub

    keras.config.set_dtype_policy("bfloat16")
    model = keras_hub_model(work.model)
    model.compile(sampler=keras_hub.samplers.TopPSampler(p=NUCLEUS), jit_compile=True)
    ids = np.zeros((work.rows, work.prompt + work.new), "int32")
    ids[:, : work.prompt] = random_prompts(work)
    inputs = {"token_ids": ids, "padding_mask": np.broadcast_to(np.arange(ids.shape[1]) < work.prompt, ids.shape)}

    def generate(seed: int) -> int:
        result = np.asarray(model.generate(inputs, stop_token_ids=None)["token_ids"])
        return result[:, work.prompt :].size

    return time_generation(work, generate, jax_peak)


def time_generation(work: Generation, generate: Callable[[int], int], peak: Callable[[], Figures]) -> Measure:
    """Warms up with the work itself, and returns what measures it."""
    for seed in range(2):
        generate(seed)

    def measure() -> Figures:
        seconds = []
        for seed in range(2, 2 + ROUNDS):
            began = time.monotonic()
            tokens = generate(seed)
            seconds.append(time.monotonic() - began)
            assert tokens == work.rows * work.new
        return {"tokens/s": work.rows * work.new / statistics.median(seconds), **peak()}

    return measure


def compare_logits(work: Logits) -> Measure:
    """The float32 logits of openai-tiny: the largest difference as a share of the largest value."""
    from gpt_tf2.backend.starting import start_backend

    start_backend()
    from gpt_tf2 import load_model

    path = Path("models", work.model, "model.safetensors")
    if not path.is_file():
        raise ModuleNotFoundError(
            "no models/tiny/model.safetensors: write it with gpu.py --prepare", name="openai_tiny"
        )
    expected = np.load(ROOT / "tests" / "fixtures" / "openai_tiny" / "expected.npz")
    logits = np.asarray(load_model(path)(expected["tokens"]))
    difference = float(np.abs(logits - expected["logits"]).max() / np.abs(expected["logits"]).max())
    return lambda: {"relative difference": difference}


def random_prompts(work: Generation) -> list[list[int]]:
    return np.random.default_rng(0).integers(0, 50256, (work.rows, work.prompt)).tolist()


def keras_hub_model(model: str) -> Any:
    import keras_hub

    shape = model_shape(model)
    backbone = keras_hub.models.GPT2Backbone(
        shape["vocab_size"],
        num_layers=shape["n_layer"],
        num_heads=shape["n_head"],
        hidden_dim=shape["n_embd"],
        intermediate_dim=4 * shape["n_embd"],
        dropout=0.0,
        max_sequence_length=shape["n_positions"],
    )
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)


def wait_for(path: Path) -> None:
    """Returns when a file is there: the large model is written while others warm up."""
    while not path.exists():
        time.sleep(0.1)


def device_name() -> str:
    """The name of the GPU, or of the CPU's backend."""
    if "jax" in sys.modules:
        import jax

        return jax.local_devices()[0].device_kind
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def jax_peak() -> Figures:
    import jax

    stats = jax.local_devices()[0].memory_stats()
    return {"peak GPU GB": stats["peak_bytes_in_use"] / 1e9} if stats else {}


def torch_peak() -> Figures:
    import torch

    return {"peak GPU GB": torch.cuda.max_memory_allocated() / 1e9} if torch.cuda.is_available() else {}


PEERS = {"transformers": ("torch", "transformers"), "keras-hub": ("keras_hub",), "gpt-tf2": ()}
RUNS: dict[tuple[type, str], Callable[[Any], Measure]] = {
    (Training, "gpt-tf2"): train_ours,
    (Training, "transformers"): train_transformers,
    (Training, "keras-hub"): train_keras_hub,
    (Generation, "gpt-tf2"): generate_ours,
    (Generation, "transformers"): generate_transformers,
    (Generation, "keras-hub"): generate_keras_hub,
    (Logits, "gpt-tf2"): compare_logits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("system", choices=PEERS)
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the benchmark on a CPU")
    flags = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    missing = [module for module in PEERS[flags.system] if importlib.util.find_spec(module) is None]
    if missing:
        print(json.dumps({"skipped": f"{missing[0]} is not installed"}), file=answers)
        return
    began = time.monotonic()
    work = shrink(WORKS[flags.work]) if flags.tiny else WORKS[flags.work]
    measure = RUNS[type(work), flags.system](work)
    warm = {"warm-up s": round(time.monotonic() - began, 1)}
    print("ready", file=answers)
    sys.stdin.readline()
    print(json.dumps({**measure(), **warm, "device": device_name()}), file=answers)


if __name__ == "__main__":
    main()
