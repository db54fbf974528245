"""The loss curve as a PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gpt_tf2.storage.files import atomic_write
from gpt_tf2.training.best import Validation
from gpt_tf2.training.state import History


def draw_curve(path: Path, history: History, best: Validation | None, title: str) -> None:
    """Write a PNG: the training loss of every step, its running mean, and the validation loss, in nats per token.

    best: the validation to mark as the best one.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    losses = np.asarray(history.losses)
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="training, every step")
    window = max(1, len(losses) // 50)
    if window > 1:
        means = np.convolve(losses, np.full(window, 1 / window), mode="valid")
        axes.plot(steps[window - 1 :], means, color="tab:blue", label=f"training, mean of {window} steps")
    if history.validation:
        axes.plot(*zip(*history.validation, strict=True), color="tab:orange", marker="o", label="validation")
    if best:
        step, loss = best
        label = f"best: step {step:,}, {loss:.4g}"
        axes.plot(step, loss, color="tab:red", marker="*", markersize=14, linestyle="none", label=label)
    axes.set(xlabel="step", ylabel="loss, nats per token", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
