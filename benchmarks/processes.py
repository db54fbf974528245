"""What the benchmarks share: one contender in a process of its own, and the rows that every benchmark writes."""

import json
import resource
import subprocess
import sys
from pathlib import Path

Row = dict[str, object]


def peak_gb() -> float:
    """The peak resident memory of this process so far, in GB of 10⁹ bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def peak_gpu_gb() -> float | None:
    """The peak memory that torch or JAX took on a GPU in this process, in GB of 10⁹ bytes; None without one."""
    if "torch" in sys.modules:
        cuda = sys.modules["torch"].cuda
        return cuda.max_memory_allocated() / 1e9 if cuda.is_available() else None
    if "jax" in sys.modules and sys.modules["jax"].default_backend() == "gpu":
        return sys.modules["jax"].local_devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9
    return None


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
