"""Measures how long a person waits: from typing `finetune.py` to the end of its first step, 124M, 1 × 1024 tokens.

    python benchmarks/start.py [--rounds 3] [--precision bfloat16]

gpt-tf2 runs the command itself, which reads a checkpoint and a text. transformers and keras-hub run their shortest
scripts, with random weights and random tokens. The figures are medians of fresh processes, run in turn.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

from models import write_model, write_text
from processes import Row, rows_of, timed_lines, vocabulary, write_rows

import training
from gpt_tf2.config import SIZES

ROOT = Path(__file__).parent.parent
WORK = "1x1024"


def seconds_until(marker: str, command: list[str], folder: Path) -> float:
    """Seconds from the start of a command to its first line that begins with a marker; then ends the command."""
    with contextlib.closing(timed_lines(command, folder)) as lines:
        for seconds, line in lines:
            if line.startswith(marker):
                return seconds
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
        write_model(folder / "models" / "124M", SIZES["124M"], vocabulary())
        write_text(folder / "text.txt")
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
