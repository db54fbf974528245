"""Measures generation at the 124M shape: gpt-tf2 and other systems in fresh processes, in turn.

    python benchmarks/generation.py --folder FOLDER --work one greedy [--rounds 3] [--systems gpt-tf2 openvino]

`one` adds 200 tokens to one short prompt with a nucleus of 0.8, `greedy` the likeliest 200. `five` draws five samples
of the prompt, `sixteen` and `thirty-two` as many of 100 tokens. `articles` adds 100 tokens to each of eight prompts of
900. The model has random weights, the prompts are random, and no text ends early. Speeds are new tokens per second of a
second run in the same process, prefill included, loading excluded. Each of gpt-tf2's is also shown by that of the best
peer; gpt-tf2 in float32 beside peers in float32 only. There its int8 version drafts, as `generate` does, or not.

OpenVINO comes as its `ContinuousBatchingPipeline` (`openvino`) and its `LLMPipeline` (`openvino-llm`). It reads one
graph in float32 and computes in float32 or bfloat16, or a graph with weights in int8, where it computes as it likes.
llama.cpp's binding completes one prompt only. Systems that are not installed are left out.

Of gpt-tf2 alone: `steps` is the milliseconds of a step at 100 and 1,000 tokens of context. In `draft` and `evaluate` a
sampling rule dictates the text, which copies from its article as summaries do. `draft` compares runs with and without
draft tokens. `evaluate` completes 64 articles with the scheduler and draft tokens, as `evaluate.py` does, and in fixed
batches of eight.

The model is first converted for each system, in a process of its own, whose seconds and peak memory are printed.
`--folder` keeps what is converted for the next call, so that each workload can be a call of its own.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt_tf2.checkpoints import huggingface
from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.config import SIZES
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.native.packing import runs_natively
from gpt_tf2.generation.sampling import Sampler, make_sampler
from gpt_tf2.generation.scheduler import Request, Scheduler
from models import random_tensors
from openvino_peer import run_batching, run_whole, write_openvino
from peers import (
    Run,
    run_ctranslate2,
    run_keras_hub,
    run_llama_cpp,
    run_transformers,
    write_ctranslate2,
    write_llama_cpp,
)
from processes import Row, peaks, processor, rows_of, run_alone, vocabulary, write_rows

CONFIG = SIZES["124M"]
OURS, SPEED, PREFILL = "gpt-tf2", "tokens/s", "prefill tokens/s"
UNDRAFTED = ", no drafts"  # how gpt-tf2 runs, beside its precision
Contender = tuple[str, str]  # a system and its precision


class Work(NamedTuple):
    """A workload: how many samples, the tokens of the prompt of each, and the new ones."""

    rows: int
    prompt: int
    new: int
    greedy: bool = False


WORK = {
    "one": Work(1, 8, 200),
    "greedy": Work(1, 8, 200, greedy=True),
    "five": Work(5, 8, 200),
    "sixteen": Work(16, 8, 100),
    "thirty-two": Work(32, 8, 100),
    "articles": Work(8, 900, 100),
}


class System(NamedTuple):
    """How to run a system.

    module: what must be installed for it.
    run: returns what completes prompts. Takes the path of the model, its precision, and whether to generate greedily.
    read_as: the name of what it reads, by its precision; "hf" is the model in Hugging Face's format.
    write: converts the model in Hugging Face's format. Takes its folder, the path to write and the precision.
    """

    module: str
    run: Callable[[Path, str, bool], Run]
    read_as: dict[str, str]
    write: Callable[[Path, Path, str], None] | None = None


def run_ours(model_path: Path, precision: str, greedy: bool) -> Run:
    decoder = open_ours(model_path, precision)
    sampler = make_sampler(temperature=0) if greedy else make_sampler(top_p=0.8)

    def run(prompts: list[list[int]], new_tokens: int) -> None:
        requests = [
            Request(ids, new_tokens, sampler, np.random.default_rng(i), lambda id: True)
            for i, ids in enumerate(prompts)
        ]
        Scheduler(decoder, end=-1, slots=len(prompts)).run_all(requests)

    return run


def open_ours(model_path: Path, precision: str) -> Decoder:
    """The decoder that `auto` chooses on this processor. In float32 it has the drafter that lies beside it, if any."""
    if not runs_natively(CONFIG):
        from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

        return LiteRTDecoder(model_path, CONFIG, precision.removesuffix(UNDRAFTED))
    from gpt_tf2.decoding.native.decoder import NativeDecoder

    decoder: Decoder = NativeDecoder(model_path, CONFIG, precision.removesuffix(UNDRAFTED))
    drafter = model_path.with_name(OUR_FOLDERS["int8"])
    if precision == "float32" and drafter.exists():
        decoder.drafter = NativeDecoder(drafter, CONFIG, "int8")
    return decoder


def write_ours(hf: Path, target: Path, precision: str) -> None:
    target.mkdir()
    if runs_natively(CONFIG):
        from gpt_tf2.decoding.native.packing import convert

        convert(open_checkpoint(hf), CONFIG, target, precision, lambda done, total: None)
    else:
        from gpt_tf2.decoding.litert.graphs import convert

        convert(open_checkpoint(hf), CONFIG, target, precision == "int8", lambda done, total: None)


ENGINE = "native" if runs_natively(CONFIG) else "litert"
OUR_FOLDERS = {"int8": f"{ENGINE}-int8", "float32": f"{ENGINE}-float32", f"float32{UNDRAFTED}": f"{ENGINE}-float32"}
CT2 = {"float32": "ctranslate2-float32", "int8": "ctranslate2-int8"}
GGUF = {"float32": "float32.gguf", "q8_0": "q8_0.gguf"}
OPENVINO = {"float32": "openvino-float32", "bfloat16": "openvino-float32", "int8": "openvino-int8"}
SYSTEMS = {
    OURS: System("gpt_tf2", run_ours, OUR_FOLDERS, write_ours),
    "openvino": System("openvino_genai", run_batching, OPENVINO, write_openvino),
    "openvino-llm": System("openvino_genai", run_whole, OPENVINO, write_openvino),
    "ctranslate2": System("ctranslate2", run_ctranslate2, CT2, write_ctranslate2),
    "llama.cpp": System("llama_cpp", run_llama_cpp, GGUF, write_llama_cpp),
    "transformers": System("transformers", run_transformers, {"float32": "hf", "bfloat16": "hf"}),
    "keras-hub": System("keras_hub", run_keras_hub, {"float32": "hf"}),
}


def prompts(work: Work) -> list[list[int]]:
    """Random ids: those of long prompts differ, and short ones are samples of one prompt."""
    draw = np.random.default_rng(0)
    if work.prompt > 100:
        return draw.integers(0, 50000, (work.rows, work.prompt)).tolist()
    return [draw.integers(0, 50000, work.prompt).tolist()] * work.rows


def write_missing(folder: Path, systems: list[str]) -> Iterator[Row]:
    """Writes the random model, and converts it for systems that do not find their own in the folder; yields figures."""
    hf = folder / "hf"
    if not hf.exists():
        with whole(hf) as made:
            huggingface.write(made / "model.safetensors", CONFIG, random_tensors(CONFIG))
            for file, name in zip(vocabulary(), ("vocab.json", "merges.txt"), strict=True):
                (made / name).write_bytes(file.read_bytes())
    for who in systems:
        for precision, name in SYSTEMS[who].read_as.items():
            if (folder / name).exists():
                continue
            figures = run_alone(__file__, "--folder", str(folder), "--one", who, precision, "convert")
            print(f"convert {name}: " + ", ".join(f"{value:.4g} {unit}" for unit, value in figures.items()), flush=True)
            yield from rows_of("convert", who, precision, figures)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to inside the `with` block, which is renamed to `path` when all is written."""
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        made = Path(temporary) / path.name
        yield made
        made.rename(path)


def convert(who: str, precision: str, folder: Path) -> dict[str, float]:
    system, began = SYSTEMS[who], time.monotonic()
    assert system.write is not None
    with whole(folder / system.read_as[precision]) as made:
        system.write(folder / "hf", made, precision)
    return {"seconds": time.monotonic() - began, **peaks()}


def measure(who: str, precision: str, name: str, folder: Path) -> dict[str, float]:
    """Runs one system in this process."""
    if name == "convert":
        return convert(who, precision, folder)
    system = SYSTEMS[who]
    if name in OWN:
        return OWN[name](precision, folder / system.read_as[precision])
    work = WORK[name]
    given = prompts(work)
    began = time.monotonic()
    run = system.run(folder / system.read_as[precision], precision, work.greedy)
    run(given, 1)
    figures = {"seconds to the first token, loading included": time.monotonic() - began}
    if name == "articles":
        began = time.monotonic()
        run(given, 1)
        figures = {PREFILL: work.rows * work.prompt / (time.monotonic() - began), **figures}
    run(given, 8)
    began = time.monotonic()
    run(given, work.new)
    return {SPEED: work.rows * work.new / (time.monotonic() - began), **figures, **peaks()}


def steps(precision: str, model_path: Path) -> dict[str, float]:
    """Milliseconds of a step of one sequence, after 100 and 1,000 tokens."""
    decoder = open_ours(model_path, precision)
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


def draft(precision: str, model_path: Path) -> dict[str, float]:
    """New tokens per second, 200 after a prompt of 300, with and without draft tokens."""
    decoder, draw = open_ours(model_path, precision), np.random.default_rng(0)
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


def evaluate(precision: str, model_path: Path) -> dict[str, float]:
    """Seconds for 64 completions, as `evaluate.py` makes them and in fixed batches, of short and of long articles."""
    decoder, draw, figures = open_ours(model_path, precision), np.random.default_rng(0), {}
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
WORKS = [*WORK, *OWN]


def contenders_of(name: str, systems: list[str]) -> list[Contender]:
    """The systems that run a workload, in each of their precisions."""
    if name in OWN:
        systems = [OURS]
    elif WORK[name].rows > 1:
        systems = [who for who in systems if who != "llama.cpp"]
    return [(who, precision) for who in systems for precision in SYSTEMS[who].read_as]


def main() -> None:
    installed = [who for who, system in SYSTEMS.items() if importlib.util.find_spec(system.module)]
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
        print(json.dumps(measure(*flags.one, Path(flags.folder))))
        return
    print(processor(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(flags.folder or temporary)
        folder.mkdir(exist_ok=True)
        rows = list(write_missing(folder, flags.systems))
        for name in flags.work:
            found: dict[Contender, list[dict]] = {who: [] for who in contenders_of(name, flags.systems)}
            for _ in range(flags.rounds):
                for (who, precision), runs in found.items():
                    runs.append(run_alone(__file__, "--folder", str(folder), "--one", who, precision, name))
            medians = {
                contender: {metric: statistics.median(run[metric] for run in runs) for metric in runs[0]}
                for contender, runs in found.items()
            }
            for (who, precision), ratios in compare(medians).items():
                rows += rows_of(
                    name, who, precision, {f"{metric}, times the best": x for metric, (x, _) in ratios.items()}
                )
            for (who, precision), figures in medians.items():
                rows += rows_of(name, who, precision, figures)
            write_rows(flags.json, rows)
            show(name, medians)


def compare(medians: dict[Contender, dict[str, float]]) -> dict[Contender, dict[str, tuple[float, Contender]]]:
    """For gpt-tf2 in each precision: each speed by that of the best peer, and that peer."""
    ratios: dict[Contender, dict[str, tuple[float, Contender]]] = {}
    for ours, own in medians.items():
        if ours[0] != OURS:
            continue
        peers = [peer for peer in medians if peer[0] != OURS and ("float32" not in ours[1] or peer[1] == "float32")]
        for metric in (SPEED, PREFILL):
            if peers and metric in own:
                best = max(peers, key=lambda peer: medians[peer][metric])
                ratios.setdefault(ours, {})[metric] = (own[metric] / medians[best][metric], best)
    return ratios


def show(name: str, medians: dict[Contender, dict[str, float]]) -> None:
    """Prints one line per system, and gpt-tf2's speeds by those of the best peers."""
    for (who, precision), figures in medians.items():
        metrics = ", ".join(f"{value:.4g} {metric}" for metric, value in figures.items())
        print(f"{name} {who} {precision}: {metrics}", flush=True)
    for (_, precision), ratios in compare(medians).items():
        for metric, (ratio, best) in ratios.items():
            print(f"{name} {OURS} {precision}: {ratio:.2f} × the best, {' '.join(best)}, in {metric}", flush=True)


if __name__ == "__main__":
    main()
