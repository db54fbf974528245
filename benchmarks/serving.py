"""Measures servers at the 124M shape, int8 weights, 8 clients at a time over loopback: gpt-tf2's and others', in turn.

    python benchmarks/serving.py [--rounds 3] [--llama_server PATH]

Each client sends the next of 24 prompts of 64 tokens once it has the 128 tokens for its last one. All use a nucleus
of 0.8 on one model with random weights, whose end of text is never drawn. `generate` completes the same prompts with
`--batch_size 8`. Each server is started afresh in each round, and first completes other prompts. Figures are medians of
the rounds: new tokens per second, prefill included, of answers in one piece and streamed; and the time to the first
event of a short streamed answer, 20 times on the idle server.

llama.cpp comes in two forms: its own `llama-server`, which batches, and the server of llama-cpp-python, which completes
one request at a time. OpenVINO has no server in Python, so its `ContinuousBatchingPipeline` stands in for one, without
HTTP. What is missing is left out.
"""

import argparse
import contextlib
import http.client
import importlib.util
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clients import complete, measure_first_token, measure_tokens_per_second
from gpt_tf2.checkpoints import huggingface
from gpt_tf2.config import SIZES
from models import random_tensors
from peers import THREADS, write_llama_cpp
from processes import Row, rows_of, vocabulary, write_rows

GPT_TF2 = [sys.executable, "-c", "import sys; from gpt_tf2.cli import main; sys.exit(main(sys.argv[1:]))"]
CONFIG = SIZES["124M"]
CLIENTS = 8
NEW_TOKENS = 128
PROMPTS = 24
FIRST_TOKENS = 20  # times that the first token is measured
SENTENCE = "the tide has counted every boat that left our small grey harbor before a bell rang over wet stones"
SAMPLING = {"temperature": 1, "top_p": 0.8, "top_k": 0, "min_p": 0, "repeat_penalty": 1}
PRECISIONS = {"gpt-tf2 serve": "int8", "gpt-tf2 generate": "int8", "openvino": "int8"}
OURS = "gpt-tf2 serve"
SPEED, STREAMED, FIRST = "tokens/s", "tokens/s streamed", "ms to the first token"
AIMS = {"gpt-tf2 generate": 0.85, "llama-server": 2.0, "llama-cpp-python": 2.0}  # of our server's tokens/s over theirs
MOST_MS = 150


def make_prompts(count: int, seed: int) -> list[str]:
    """Texts of 64 words, which do not begin alike."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(SENTENCE.split(), 64)) for _ in range(count)]


def prepare(folder: Path) -> None:
    """Writes one random model, also as GGUF if that can be written."""
    tensors = random_tensors(CONFIG)
    model = folder / "hf" / "model.safetensors"
    huggingface.write(model, CONFIG, tensors)
    for file, name in zip(vocabulary(), ("vocab.json", "merges.txt"), strict=True):
        shutil.copy(file, model.parent / name)
    if importlib.util.find_spec("gguf"):
        write_llama_cpp(folder / "hf", folder / "q8_0.gguf", "q8_0")


def server_command(system: str, folder: Path, port: int, llama_server: str | None) -> list[str]:
    """What starts a server."""
    gguf, threads = str(folder / "q8_0.gguf"), str(THREADS)
    if system == "llama-server":
        assert llama_server is not None
        slots = ["--parallel", str(CLIENTS), "--cont-batching", "--ctx-size", str(CLIENTS * CONFIG.n_ctx)]
        of_cpu = ["--threads", threads, "--threads-batch", threads, "--cache-ram", "0"]
        return [llama_server, "--model", gguf, "--port", str(port), *slots, *of_cpu]
    if system == "llama-cpp-python":
        typed = [sys.executable, "-m", "llama_cpp.server", "--model", gguf, "--port", str(port)]
        settings = {"n_ctx": str(CONFIG.n_ctx), "n_threads": threads, "interrupt_requests": "false"}
        return [*typed, *(part for name, value in settings.items() for part in (f"--{name}", value))]
    typed = [*GPT_TF2, "serve", str(folder / "hf"), f"--port={port}"]
    return [*typed, "--quantize=int8", f"--batch_size={CLIENTS}"]


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server that answers, until the end of the `with` block. Raises SystemExit if it does not start."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(3000):
            with contextlib.suppress(OSError, http.client.HTTPException):
                complete(port, {"prompt": "The", "max_tokens": 1})
                break
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def measure_server(system: str, folder: Path, llama_server: str | None) -> dict[str, float]:
    port = find_port()
    with running(server_command(system, folder, port, llama_server), port, folder / f"{system}.log"):
        measure_tokens_per_second(port, make_prompts(CLIENTS, 1), CLIENTS, 8, **SAMPLING)
        whole = measure_tokens_per_second(port, make_prompts(PROMPTS, 2), CLIENTS, NEW_TOKENS, **SAMPLING)
        streamed = measure_tokens_per_second(
            port, make_prompts(PROMPTS, 3), CLIENTS, NEW_TOKENS, stream=True, **SAMPLING
        )
        short = [f"{prompt.split()[0]} {count}" for count, prompt in enumerate(make_prompts(FIRST_TOKENS, 4))]
        first = measure_first_token(port, short, max_tokens=4, **SAMPLING)
    return {SPEED: whole, STREAMED: streamed, FIRST: first}


def find_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def measure_generate(folder: Path) -> dict[str, float]:
    """The speed that `generate` prints, from its first step on."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(make_prompts(PROMPTS, 2)) + "\n", encoding="utf-8")
    typed = [*GPT_TF2, "generate", f"--model={folder / 'hf'}", f"--prompts={prompts}", "--n_samples=1"]
    typed += [f"--batch_size={CLIENTS}", f"--max_new_tokens={NEW_TOKENS}", "--top_p=0.8", "--quantize=int8"]
    printed = subprocess.run(typed, capture_output=True, text=True, check=True).stderr
    if f"{PROMPTS * NEW_TOKENS:,} tokens" not in printed:
        raise SystemExit(f"not all samples are whole:\n{printed}")
    speed = re.search(r"([\d,.]+) tokens/s", printed)
    assert speed is not None, printed
    return {SPEED: float(speed[1].replace(",", ""))}


def measure_openvino(folder: Path) -> dict[str, float]:
    """The speed of OpenVINO's batching without a server; see `openvino_batch.py`."""
    prompts = {"warm_up": make_prompts(CLIENTS, 1), "prompts": make_prompts(PROMPTS, 2)}
    asked = {**prompts, "max_new_tokens": NEW_TOKENS, "top_p": 0.8, "at_a_time": CLIENTS}
    script = Path(__file__).with_name("openvino_batch.py")
    typed = [sys.executable, str(script), str(folder / "hf"), str(folder / "openvino")]
    done = subprocess.run(typed, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(typed)} failed:\n{done.stderr[-2000:]}")
    return {SPEED: json.loads(done.stdout.splitlines()[-1])}


def show(medians: dict[str, dict[str, float]]) -> None:
    """Prints a line for each system, with our server's speed relative to it."""
    ours = medians.get(OURS)
    for system, figures in medians.items():
        line = f"{system}: " + ", ".join(f"{value:.4g} {name}" for name, value in figures.items())
        if ours and system == OURS:
            line += f" (aim: at most {MOST_MS} ms)"
        elif ours:
            aim = f", aim: {AIMS[system]:.2f}" if system in AIMS else ""
            line += f" (gpt-tf2 serve {ours[SPEED] / figures[SPEED]:.2f} ×{aim})"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system (default: 3)")
    parser.add_argument("--systems", nargs="+", help="measure these only")
    parser.add_argument("--llama_server", default=shutil.which("llama-server"), help="llama.cpp's own server")
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--folder", help="folder of the model, written if missing (default: a temporary folder)")
    flags = parser.parse_args()
    there = {
        OURS: True,
        "gpt-tf2 generate": True,
        "llama-server": flags.llama_server and importlib.util.find_spec("gguf"),
        "llama-cpp-python": importlib.util.find_spec("llama_cpp") and importlib.util.find_spec("gguf"),
        "openvino": importlib.util.find_spec("openvino_genai"),
    }
    systems = flags.systems or [system for system, found in there.items() if found]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(flags.folder or temporary)
        if not (folder / "hf").exists():
            prepare(folder)
        found: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
        for _ in range(flags.rounds):
            for system, runs in found.items():
                if system == "gpt-tf2 generate":
                    runs.append(measure_generate(folder))
                elif system == "openvino":
                    runs.append(measure_openvino(folder))
                else:
                    runs.append(measure_server(system, folder, flags.llama_server))
    medians = {
        who: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for who, runs in found.items()
    }
    rows: list[Row] = []
    for who, figures in medians.items():
        rows += rows_of("serving", who, PRECISIONS.get(who, "q8_0"), dict(figures))
    write_rows(flags.json, rows)
    show(medians)


if __name__ == "__main__":
    main()
