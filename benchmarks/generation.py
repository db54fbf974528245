"""Measures generation at the 124M shape: gpt-tf2 and other systems in fresh processes, in turn.

    python benchmarks/generation.py [--rounds 3] [--work one five articles steps] [--systems gpt-tf2 ctranslate2]

`one` adds 200 tokens to one short prompt, `five` draws five samples of it, and `articles` adds 100 tokens to each of
eight prompts of 900 tokens. All use the nucleus of 0.8, random weights and random prompts, and none stops early. Speeds
are new tokens per second of a second run in the same process, prefill included, loading excluded. `command` is the time
that a person waits for a second run of `inference.py` with 20 new tokens; keras-hub runs its shortest script, with
random weights instead of a checkpoint.

Of gpt-tf2 alone: `steps` is the milliseconds of a step at 100 and 1,000 tokens of context. In `draft` and `evaluate` a
sampling rule dictates the text, which copies from its article as summaries do. `draft` compares runs with and without
draft tokens. `evaluate` completes 64 articles with the scheduler and draft tokens, as `evaluate.py` does, and in fixed
batches of eight.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from peers import (
    Run,
    run_ctranslate2,
    run_keras_hub,
    run_llama_cpp,
    run_transformers,
    write_ctranslate2,
    write_llama_cpp,
)
from processes import Row, first_and_last_character, peaks, rows_of, run_alone, vocabulary, write_rows

from gpt_tf2.checkpoints import huggingface
from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.config import SIZES, tensor_shapes
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.generation.sampling import Sampler, make_sampler
from gpt_tf2.generation.scheduler import Request, Scheduler

ROOT = Path(__file__).parent.parent
CONFIG = SIZES["124M"]
STARTER = "The tide"
WORK = {"one": (1, 8, 200), "five": (5, 8, 200), "articles": (8, 900, 100)}  # samples, tokens of the prompt, new tokens
PRECISIONS = {
    "gpt-tf2": ("float32", "int8"),
    "transformers": ("float32", "bfloat16"),
    "keras-hub": ("float32",),
    "ctranslate2": ("float32", "int8"),
    "llama.cpp": ("float32", "q8_0"),
}


def prompts(work: str) -> list[list[int]]:
    rows, length, _ = WORK[work]
    draw = np.random.default_rng(0)
    if work == "articles":
        return draw.integers(0, 50000, (rows, length)).tolist()
    return [draw.integers(0, 50000, length).tolist()] * rows


def run_ours(precision: str, folder: Path) -> Run:
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

    decoder, sampler = LiteRTDecoder(folder / precision, CONFIG, precision), make_sampler(top_p=0.8)

    def run(prompts: list[list[int]], new_tokens: int) -> None:
        requests = [
            Request(ids, new_tokens, sampler, np.random.default_rng(i), lambda id: True)
            for i, ids in enumerate(prompts)
        ]
        Scheduler(decoder, end=-1, slots=len(prompts)).run_all(requests)

    return run


SYSTEMS = {
    "gpt-tf2": run_ours,
    "transformers": run_transformers,
    "keras-hub": run_keras_hub,
    "ctranslate2": run_ctranslate2,
    "llama.cpp": run_llama_cpp,
}


def prepare(folder: Path, systems: list[str]) -> None:
    """Writes one random model in the format that each system reads."""
    draw, shapes = np.random.default_rng(0), tensor_shapes(CONFIG)
    tensors = {name: 0.02 * draw.standard_normal(shape, "float32") for name, shape in shapes.items()}
    model = folder / "hf" / "model.safetensors"
    huggingface.write(model, CONFIG, tensors)
    for file, name in zip(vocabulary(), ("vocab.json", "merges.txt"), strict=True):
        (model.parent / name).write_bytes(file.read_bytes())
    if "ctranslate2" in systems:
        for precision in PRECISIONS["ctranslate2"]:
            write_ctranslate2(folder, precision)
    if "llama.cpp" in systems:
        for precision in PRECISIONS["llama.cpp"]:
            write_llama_cpp(folder, precision, CONFIG, tensors)
    if "gpt-tf2" in systems:
        from gpt_tf2.backend.starting import start_backend
        from gpt_tf2.decoding.litert.graphs import convert

        start_backend()
        for precision in PRECISIONS["gpt-tf2"]:
            (folder / precision).mkdir()
            quantized = precision == "int8"
            convert(open_checkpoint(model), CONFIG, folder / precision, quantized, lambda done, total: None)


def measure(system: str, precision: str, work: str, folder: Path) -> None:
    """Runs one system in this process and prints its figures as JSON."""
    if work in OWN:
        print(json.dumps(OWN[work](precision, folder)))
        return
    if work == "command":
        print(json.dumps(command(system, precision, folder)))
        return
    if work == "twenty tokens":
        SYSTEMS[system](precision, folder)(prompts("one"), 20)
        print(STARTER, "and 20 tokens")
        return
    given, new_tokens = prompts(work), WORK[work][2]
    began = time.monotonic()
    run = SYSTEMS[system](precision, folder)
    run(given, 1)
    first = time.monotonic() - began
    began = time.monotonic()
    run(given, 1)
    prefill = time.monotonic() - began
    run(given, 8)
    began = time.monotonic()
    run(given, new_tokens)
    seconds = time.monotonic() - began
    figures = {"tokens/s": len(given) * new_tokens / seconds, "seconds to the first token, loading included": first}
    figures["prefill tokens/s"] = sum(map(len, {tuple(ids): ids for ids in given}.values())) / prefill
    print(json.dumps({**figures, **peaks()}))


def command(system: str, precision: str, folder: Path) -> dict[str, float]:
    """Seconds from typing a command to its first token, and to its end."""
    typed = [sys.executable, __file__, "--folder", str(folder), "--one", system, precision, "twenty tokens"]
    if system == "gpt-tf2":
        typed = [sys.executable, str(ROOT / "inference.py"), f"--model_path={folder / 'hf'}", "--output_length=20"]
        typed += [f"--starter={STARTER}", "--nucleus", "--top_p=0.8"] + ["--quantize=int8"] * (precision == "int8")
        subprocess.run(typed, check=True, capture_output=True)  # the first run converts
    return first_and_last_character(typed, STARTER)


def steps(precision: str, folder: Path) -> dict[str, float]:
    """Milliseconds of a step of one sequence, after 100 and 1,000 tokens."""
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

    decoder = LiteRTDecoder(folder / precision, CONFIG, precision)
    figures = {}
    for context in (100, 1000):
        state, seconds = decoder.begin(), []
        decoder.extend(state, [[0] * (context - 10)], [1])
        for _ in range(20):
            began = time.monotonic()
            decoder.extend(state, [[0]])
            seconds.append(time.monotonic() - began)
        figures[f"ms a step at {context}"] = 1000 * statistics.median(seconds)
    return figures | {"at 1000, times at 100": figures["ms a step at 1000"] / figures["ms a step at 100"]} | peaks()


@dataclasses.dataclass(frozen=True)
class Dictated:
    """A sampling rule that dictates the text after a prompt of `prompt` tokens, at the usual cost of sampling."""

    prompt: int
    text: list[int]

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        result = logits.copy()
        result[self.text[len(ids) - self.prompt]] = np.inf
        return result


def copied(article: list[int], count: int, draw: np.random.Generator) -> list[int]:
    """Tokens like a summary's: stretches of the article, ten tokens on average, with another token between them."""
    text: list[int] = []
    while len(text) < count:
        begin = draw.integers(len(article))
        text += [*article[begin : begin + draw.geometric(0.1)], int(draw.integers(0, 50000))]
    return text[:count]


def draft(precision: str, folder: Path) -> dict[str, float]:
    """New tokens per second, 200 after a prompt of 300, with and without draft tokens."""
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

    decoder, draw = LiteRTDecoder(folder / precision, CONFIG, precision), np.random.default_rng(0)
    article = draw.integers(0, 50000, 300).tolist()
    speeds: dict[str, list[float]] = {}
    for turn in range(6):  # the first is a warm-up
        texts = {"copying": copied(article, 200, draw), "free": draw.integers(0, 50000, 200).tolist()}
        for (kind, text), drafting in itertools.product(texts.items(), (False, True)):
            times: list[float] = []
            sampler = Sampler((Dictated(len(article), text),), greedy=True)
            write = partial(noted, times)
            request = Request(article, len(text), sampler, np.random.default_rng(0), write)
            Scheduler(decoder, end=-1, slots=1, draft=drafting).run_all([request])
            if turn:
                name = f"{kind}{', drafted' if drafting else ''}, tokens/s"
                speeds.setdefault(name, []).append((len(times) - 1) / (times[-1] - times[0]))
    figures = {name: statistics.median(values) for name, values in speeds.items()}
    for kind in ("copying", "free"):
        figures[f"{kind}, times as fast"] = figures[f"{kind}, drafted, tokens/s"] / figures[f"{kind}, tokens/s"]
    return figures | peaks()


def noted(times: list[float], id: int) -> bool:
    times.append(time.monotonic())
    return True


def evaluate(precision: str, folder: Path) -> dict[str, float]:
    """Seconds for 64 completions, as `evaluate.py` makes them and in fixed batches, of short and of long articles."""
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

    decoder, draw, figures = LiteRTDecoder(folder / precision, CONFIG, precision), np.random.default_rng(0), {}
    for mean in (200, 900):
        sizes = np.minimum(draw.lognormal(np.log(mean) - 0.125, 0.5, 64), 920).astype(int)
        articles = [draw.integers(0, 50000, size).tolist() for size in sizes]
        texts = [copied(article, int(draw.integers(5, 100)), draw) for article in articles]
        completions: list[list[int]] = [[] for _ in articles]
        requests = [
            Request(article, len(text), Sampler((Dictated(len(article), text),), greedy=True), draw, new.append)
            for article, text, new in zip(articles, texts, completions, strict=True)
        ]
        began = time.monotonic()
        by_length = sorted(requests, key=lambda request: len(request.prompt))
        Scheduler(decoder, end=-1, slots=8, draft=True).run_all(by_length)
        full = time.monotonic() - began
        began = time.monotonic()
        in_fixed = [new for first in range(0, 64, 8) for new in fixed_batch(decoder, requests[first : first + 8])]
        fixed = time.monotonic() - began
        assert completions == in_fixed == texts
        metrics = {"seconds": full, "seconds in fixed batches": fixed, "times as fast": fixed / full}
        figures.update({f"{mean} tokens: {name}": value for name, value in metrics.items()})
    return figures | peaks()


def fixed_batch(decoder: Decoder, requests: list[Request]) -> list[list[int]]:
    """Completes requests in one batch that is padded to its longest prompt and runs until the last one ends."""
    rows = [list(request.prompt) for request in requests]
    longest = max(map(len, rows))
    padded = [row + [0] * (longest - len(row)) for row in rows]
    state = decoder.take(decoder.begin(), [(0, 0)] * len(rows))
    for first in range(0, longest, decoder.prefill_chunk):
        decoder.extend(state, [row[first : first + decoder.prefill_chunk] for row in padded], [0] * len(rows))
    state.lengths = np.array([len(row) - 1 for row in rows], "int32")
    for step in range(max(request.max_new_tokens for request in requests)):
        logits = decoder.extend(state, [row[-1:] for row in rows])
        for row, request, after in zip(rows, requests, logits, strict=True):
            row.append(request.sampler.choose(after, row, request.generator) if step < request.max_new_tokens else 0)
    return [row[len(given.prompt) :][: given.max_new_tokens] for row, given in zip(rows, requests, strict=True)]


OWN = {"steps": steps, "draft": draft, "evaluate": evaluate}  # workloads of gpt-tf2 alone
WORKS = [*WORK, "command", *OWN]


def systems_of(work: str) -> list[str]:
    """The systems that run a workload."""
    if work in OWN:
        return ["gpt-tf2"]
    if work == "command":
        return ["gpt-tf2", "keras-hub"]
    return [who for who in SYSTEMS if work == "one" or who != "llama.cpp"]  # its binding runs one sequence only


def main() -> None:
    installed = [who for who in SYSTEMS if who != "llama.cpp" or importlib.util.find_spec("llama_cpp")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system (default: 3)")
    parser.add_argument("--work", nargs="+", default=WORKS, choices=WORKS)
    parser.add_argument("--systems", nargs="+", default=installed, choices=SYSTEMS)
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--folder", help="folder of the models, written if missing (default: a temporary folder)")
    parser.add_argument(
        "--one", nargs=3, metavar=("SYSTEM", "PRECISION", "WORK"), help="run one system in this process"
    )
    flags = parser.parse_args()
    if flags.one:
        return measure(*flags.one, Path(flags.folder))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(flags.folder or temporary)
        if not (folder / "hf").exists():
            prepare(folder, flags.systems)
        for work in flags.work:
            systems = [who for who in flags.systems if who in systems_of(work)]
            contenders = [(who, precision) for who in systems for precision in PRECISIONS[who]]
            found: dict[tuple[str, str], list[dict]] = {contender: [] for contender in contenders}
            for _ in range(flags.rounds):
                for (who, precision), runs in found.items():
                    runs.append(run_alone(__file__, "--folder", str(folder), "--one", who, precision, work))
            medians = {
                contender: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
                for contender, runs in found.items()
            }
            for (who, precision), figures in medians.items():
                rows += rows_of(work, who, precision, figures)
            write_rows(flags.json, rows)
            show(work, medians)


def show(work: str, medians: dict[tuple[str, str], dict[str, float]]) -> None:
    """Prints one line per system, with gpt-tf2's speed relative to it."""
    for (who, precision), figures in medians.items():
        metrics = ", ".join(f"{value:.4g} {name}" for name, value in figures.items())
        ratios = [
            f"{ours[1]} {own['tokens/s'] / figures['tokens/s']:.2f} ×"
            for ours, own in medians.items()
            if ours[0] == "gpt-tf2" != who and "tokens/s" in figures
        ]
        print(
            f"{work} {who} {precision}: {metrics}" + (f" (gpt-tf2 {', '.join(ratios)})" if ratios else ""), flush=True
        )


if __name__ == "__main__":
    main()
