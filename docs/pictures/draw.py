"""Draws docs/pictures/demo.png from a real run of the demo: its loss curve, and a sample before and after.

It takes about two minutes on two cores. Run it again when the demo changes:

    python docs/pictures/draw.py
"""

import os
import tempfile
from pathlib import Path

import h5py
import numpy as np
from matplotlib.figure import Figure

from gpt_tf2.checkpoints.opened import save_model
from gpt_tf2.commands import demo
from gpt_tf2.commands.from_scratch import open_random_model

PICTURE = Path(__file__).with_name("demo.png").absolute()
INK, PAPER, FAINT, TRAINING, VALIDATION = "#1f2430", "#ffffff", "#8a93a3", "#3f6fd8", "#e0752d"
LINES, COLUMNS = 9, 62  # of a sample


def main() -> None:
    """Trains the demo in a temporary folder and draws what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        trained, begun = demo.run_demo(demo.DemoSettings()), open_random_model(demo.TRAINING)
        save_model(begun.load(), "begun.h5", begun.tokenizer)
        before, after = demo.write_sample(Path("begun.h5")), demo.write_sample(trained)
        with h5py.File(trained.with_suffix("") / "state.h5") as state:
            losses, validation = state["losses"][:], state["validation"][:]
    draw(losses, validation, fit(before), fit(after))


def fit(sample: str) -> str:
    """The first lines of a sample of the demo without its margin, cut to the width of the picture."""
    lines = [line.removeprefix("  | ").rstrip() for line in sample.splitlines()]
    full = [line for line, last in zip(lines, ["", *lines], strict=False) if line or last]  # no two empty lines
    return "\n".join(line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…" for line in full[:LINES])


def draw(losses: np.ndarray, validation: np.ndarray, before: str, after: str) -> None:
    """Writes the picture. losses: [steps]. validation: [validations, 2], each a step and its loss."""
    figure = Figure(figsize=(10.5, 4), dpi=110, facecolor=PAPER)
    axes = figure.add_axes((0.05, 0.13, 0.43, 0.74))
    steps = np.arange(1, len(losses) + 1)
    mean = np.convolve(losses, np.full(16, 1 / 16), mode="valid")
    axes.plot(steps, losses, color=TRAINING, alpha=0.2, linewidth=0.7)
    axes.plot(steps[15:], mean, color=TRAINING, linewidth=1.6, label="training")
    axes.plot(*validation.T, color=VALIDATION, marker="o", markersize=4, linewidth=1.6, label="validation")
    axes.annotate(f"{validation[-1, 1]:.2f}", validation[-1], (-2, 9), textcoords="offset points", color=VALIDATION)
    axes.set_xlabel("step", color=INK)
    axes.set_title("loss, nats per token", loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    for top, title, text, color in ((0.87, "before training", before, FAINT), (0.43, "after 800 steps", after, INK)):
        figure.text(0.525, top + 0.025, title, fontsize=11, color=INK)
        figure.text(0.525, top, clean(text), fontsize=8.5, family="monospace", color=color, va="top", linespacing=1.25)
    figure.savefig(PICTURE, pil_kwargs={"optimize": True})


def clean(text: str) -> str:
    """A text in which each character that is not printable ASCII is a box; `$` is no formula."""
    drawn = (c if c in "…\n" or (c.isascii() and c.isprintable()) else "□" for c in text)
    return "".join(drawn).replace("$", r"\$")


if __name__ == "__main__":
    main()
