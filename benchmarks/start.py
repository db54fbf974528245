"""Measures how long a person waits: from typing `finetune.py` to the end of its first step, 124M, 1 × 1024 tokens.

    python benchmarks/start.py [--rounds 3] [--precision bfloat16]

gpt-tf2 runs the command itself, which reads a checkpoint and a text. transformers and keras-hub run their shortest
scripts, with random weights and random tokens. The figures are medians of fresh processes, run in turn.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from processes import Row, rows_of, vocabulary, write_rows

import training
from gpt_tf2.checkpoints import huggingface
from gpt_tf2.config import SIZES, tensor_shapes

ROOT = Path(__file__).parent.parent
WORK = "1x1024"


def write_model(folder: Path) -> None:
    """Writes a random checkpoint of the 124M shape with GPT-2's vocabulary, and a text."""
    draw, shapes = np.random.default_rng(0), tensor_shapes(SIZES["124M"])
    tensors = {name: 0.02 * draw.standard_normal(shape, "float32") for name, shape in shapes.items()}
    huggingface.write(folder / "models" / "124M" / "model.safetensors", SIZES["124M"], tensors)
    for file in vocabulary():
        shutil.copy(file, folder / "models" / "124M" / file.name)
    (folder / "text.txt").write_text(" ".join(f"The tide has counted {n} boats home." for n in range(2000)))


def seconds_until(marker: str, command: list[str], folder: Path) -> float:
    """Seconds from the start of a command to its first line that begins with a marker; then ends the command."""
    began = time.monotonic()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(marker):
                process.kill()
                return time.monotonic() - began
    raise SystemExit(f"{' '.join(command)} ended without a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system (default: 3)")
    parser.add_argument("--precision", nargs="+", default=["bfloat16"])
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--one", nargs=2, metavar=("WHO", "PRECISION"), help="take one step in this process")
    flags = parser.parse_args()
    if flags.one:
        _, step = next(training.CONTENDERS[flags.one[0]](flags.one[1], WORK))
        step()
        print("step", flush=True)
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder)
        for precision in flags.precision:
            typed = [sys.executable, str(ROOT / "finetune.py"), "--model=124M", "--dataset_path=text.txt"]
            commands = {"gpt-tf2": [*typed, "--steps_per_epoch=5", f"--precision={precision}"]}
            for who in ("transformers", "keras-hub"):
                commands[who] = [sys.executable, __file__, "--one", who, precision]
            measured: dict[str, list[float]] = {who: [] for who in commands}
            for _ in range(flags.rounds):
                for who, command in commands.items():
                    measured[who].append(seconds_until("step", command, folder))
            for who, seconds in measured.items():
                median = statistics.median(seconds)
                rows += rows_of(f"start {WORK}", who, precision, {"seconds to the first step": median})
                print(f"{precision} {who}: first step after {median:.1f} s", flush=True)
            write_rows(flags.json, rows)


if __name__ == "__main__":
    main()
