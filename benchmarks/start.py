"""Measures how long a person waits for a command, 124M: gpt-tf2 and other systems in fresh processes, in turn.

    python benchmarks/start.py [--rounds 3] [--work train generate help] [--precision bfloat16]

`train` is from typing `finetune.py` to the end of its first step on 1 × 1024 tokens. `generate` is from typing a second
`gpt-tf2 generate --quantize int8`, which finds the model converted, to its first token. `help` is `gpt-tf2 --help`.
gpt-tf2 runs the commands themselves, which read a checkpoint and a text. The others run their shortest scripts, with
random tokens: transformers in bfloat16 and OpenVINO in int8 read a model to generate, keras-hub draws random weights.
Figures are medians.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import generation
import training
from gpt_tf2.config import SIZES
from models import write_model, write_text
from processes import Row, first_and_last_character, processor, rows_of, timed_lines, vocabulary, write_rows

GPT_TF2 = [sys.executable, "-c", "import sys; from gpt_tf2.cli import main; sys.exit(main(sys.argv[1:]))"]
ROOT = Path(__file__).parent.parent
SHAPE = "1x1024"
PROMPT = "The tide"
WORKS = ("train", "generate", "help")
GENERATING = {"openvino-llm": "int8", "transformers": "bfloat16", "keras-hub": "float32"}
Wait = Callable[[], float]


def seconds_until(marker: str, command: list[str], folder: Path) -> float:
    """Seconds from the start of a command to its first line that begins with a marker; then ends the command."""
    with contextlib.closing(timed_lines(command, folder)) as lines:
        for seconds, line in lines:
            if line.startswith(marker):
                return seconds
    raise SystemExit(f"{' '.join(command)} ended without a line that begins with {marker}")


def alone(folder: Path, who: str, precision: str, work: str) -> Wait:
    """Waits for a system's shortest script."""
    command = [sys.executable, __file__, "--folder", str(folder), "--one", who, precision, work]
    return partial(seconds_until, "done", command, folder)


def waits_of(work: str, folder: Path, precisions: list[str]) -> dict[tuple[str, str], Wait]:
    """What takes the time of each system, in each of its precisions."""
    if work == "help":
        return {("gpt-tf2", ""): partial(seconds_until, "usage", [*GPT_TF2, "--help"], folder)}
    if work == "generate":
        list(generation.write_missing(folder, [who for who in GENERATING if who != "keras-hub"]))
        typed = [*GPT_TF2, "generate", f"--model={folder / 'hf'}", f"--prompt={PROMPT}"]
        typed += ["--max_new_tokens=20", "--top_p=0.8", "--quantize=int8"]
        first_and_last_character(typed, PROMPT)  # converts
        ours = {("gpt-tf2", "int8"): lambda: first_and_last_character(typed, PROMPT)["seconds to the first token"]}
        return ours | {(who, how): alone(folder, who, how, work) for who, how in GENERATING.items()}
    write_model(folder / "models" / "124M", SIZES["124M"], vocabulary())
    write_text(folder / "text.txt")
    waits: dict[tuple[str, str], Wait] = {}
    for precision in precisions:
        typed = [sys.executable, str(ROOT / "finetune.py"), "--model=124M", "--dataset_path=text.txt"]
        typed += ["--steps_per_epoch=5", f"--precision={precision}"]
        waits["gpt-tf2", precision] = partial(seconds_until, "step", typed, folder)
        for who in ("transformers", "keras-hub"):
            waits[who, precision] = alone(folder, who, precision, work)
    return waits


def take(who: str, precision: str, work: str, folder: Path) -> None:
    """Takes one training step, or generates one token, in this process."""
    if work == "train":
        _, step = next(training.CONTENDERS[who](precision, SHAPE))
        step()
    else:
        system = generation.SYSTEMS[who]
        run = system.run(folder / system.read_as[precision], precision, False)
        run(generation.prompts(generation.WORK["one"]), 1)
    print("done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system (default: 3)")
    parser.add_argument("--work", nargs="+", default=WORKS, choices=WORKS)
    parser.add_argument("--precision", nargs="+", default=["bfloat16"], help="of training (default: bfloat16)")
    parser.add_argument("--folder", help="folder of the models, written if missing (default: a temporary folder)")
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--one", nargs=3, metavar=("WHO", "PRECISION", "WORK"), help="run one system in this process")
    flags = parser.parse_args()
    if flags.one:
        return take(*flags.one, Path(flags.folder))
    print(processor(), flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(flags.folder or temporary).absolute()
        folder.mkdir(exist_ok=True)
        for work in flags.work:
            waits = waits_of(work, folder, flags.precision)
            found: dict[tuple[str, str], list[float]] = {contender: [] for contender in waits}
            for _ in range(flags.rounds):
                for contender, wait in waits.items():
                    found[contender].append(wait())
            for (who, precision), seconds in found.items():
                median = statistics.median(seconds)
                rows += rows_of(f"start {work}", who, precision, {"seconds": median})
                print(f"{work} {who} {precision}: {median:.2f} s", flush=True)
            write_rows(flags.json, rows)


if __name__ == "__main__":
    main()
