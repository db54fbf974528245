"""The loss of LoRA on a base in int8 beside that on a base in bfloat16.

Trains a small GPT-2 on Python's language reference, and then adapters of rank 8 on the source of asyncio: with each
base, for two seeds. Prints the mean training loss and the validation loss every 50 steps, and draws both curves. What
lies in --folder from an earlier call is not trained again.

    python benchmarks/int8_base.py [--folder int8] [--picture docs/pictures/int8-base.png]
"""

import argparse
import asyncio
import dataclasses
import os
from pathlib import Path

import h5py
import numpy as np

from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.vocabulary import VocabularySettings, learn_vocabulary
from gpt_tf2.data.reference_text import read_reference_text

SEEDS = (0, 1)
BASES = {"bfloat16": {}, "int8": {"base_precision": "int8"}}
SHARED = {"steps": 50, "batch_size": 8, "length": 256, "lr": 0.002, "precision": "bfloat16", "sample_every": 0}
PRETRAINING = FinetuneSettings(
    data="ref.txt",
    model="base",
    from_scratch=True,
    n_layer=6,
    n_embd=256,
    n_head=4,
    init_std=0.04,
    output="base.h5",
    epochs=10,
    lr_schedule="cosine",
    val_fraction=0.05,
    **SHARED,
)
ADAPTERS = FinetuneSettings(
    data="src.txt", model="output/base.h5", lora_rank=8, remat="off", epochs=6, val_fraction=0.1, **SHARED
)


def train() -> None:
    """Train what is not there yet, in the current folder."""
    if not Path("output/base.h5").exists():
        Path("ref.txt").write_text(read_reference_text())
        sources = sorted(Path(asyncio.__file__).parent.glob("*.py"))
        Path("src.txt").write_text("\n".join(path.read_text() for path in sources))
        learn_vocabulary(VocabularySettings(data="ref.txt", size=2000, output="base"))
        run_finetune(PRETRAINING)
    for seed in SEEDS:
        for base, settings in BASES.items():
            output = f"{base}-{seed}.h5"
            if not Path("output", output).exists():
                run_finetune(dataclasses.replace(ADAPTERS, output=output, seed=seed, **settings))


def read_losses(base: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The training loss of each step [steps], and the validation losses [validations, (step, loss)] of a run."""
    with h5py.File(f"output/{base}-{seed}/state.h5") as state:
        return state["losses"][()], state["validation"][()]


def draw(picture: Path) -> None:
    """Draw the curves of the first seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for (base, style), color in zip({"bfloat16": "-", "int8": "--"}.items(), ("tab:blue", "tab:orange"), strict=True):
        losses, validation = read_losses(base, SEEDS[0])
        axes.plot(np.arange(1, 1 + len(losses)), losses, style, color=color, lw=0.8, label=f"training, {base}")
        axes.plot(*validation.T, style, color=color, marker="o", ms=3, label=f"validation, {base}")
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.legend()
    figure.savefig(picture, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("int8"), help="folder to train in (default: int8)")
    parser.add_argument("--picture", type=Path, help="file for the curves")
    flags = parser.parse_args()
    picture = flags.picture and flags.picture.resolve()
    flags.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(flags.folder)
    train()
    for seed in SEEDS:
        for base in BASES:
            losses, validation = read_losses(base, seed)
            print(f"seed {seed}, {base}, training:  ", *(f"{loss:.4f}" for loss in losses.reshape(6, 50).mean(1)))
            print(f"seed {seed}, {base}, validation:", *(f"{loss:.4f}" for _, loss in validation))
    if picture:
        draw(picture)


if __name__ == "__main__":
    main()
