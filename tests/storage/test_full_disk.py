"""Fine-tuning on a small file system: an error before training, or while it runs, and the last save stays whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import FINETUNE
from helpers.workplace import ROOT


def run_on_small_disk(folder: Path, size: str, command: str) -> subprocess.CompletedProcess:
    """Runs a shell command with a file system of `size` mounted on `output`, in a namespace of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no unprivileged mount namespaces here")
    (folder / "output").mkdir()
    shell = f"mount -t tmpfs -o size={size} tmpfs output && {command}"
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_disk_that_is_too_small_is_an_error_before_training(workplace: Path) -> None:
    command = f"{sys.executable} {ROOT / 'finetune.py'} {FINETUNE.removeprefix('finetune ')}; echo $? $(ls -A output)"
    result = run_on_small_disk(workplace, "200k", command)
    assert result.stdout.split()[-2:] == ["2", "story_tiny"], result.stdout
    assert result.stderr.count("\n") == 1 and "GB free" in result.stderr and "free space" in result.stderr


@pytest.mark.slow
def test_a_disk_that_fills_up_during_training_keeps_the_last_save(workplace: Path) -> None:
    """There is space for the run, but another program takes it after the first save."""
    program = f"""
import shutil, sys
from pathlib import Path
from gpt_tf2 import cli
from gpt_tf2.backend.starting import start_backend
start_backend()
import keras
if keras.backend.backend() == "jax":
    from gpt_tf2.training.compiled_trainer import CompiledTrainer as Trainer
else:
    from gpt_tf2.training.blockwise_trainer import BlockwiseTrainer as Trainer
plain = Trainer.step
def step(trainer, batch, rate, seed, step):
    if step == 3:
        free = shutil.disk_usage("output").free
        Path("output/other").write_bytes(bytes(free - 300_000))
    return plain(trainer, batch, rate, seed, step)
Trainer.step = step
flags = "{FINETUNE} --steps_per_epoch=6 --save_every=3 --sample_every=0 --output_name=m.h5"
code = cli.main(flags.split(" "))
from gpt_tf2.training.state import load_state
import h5py
with h5py.File("output/m/state.h5") as file:
    print(code, len(file["losses"]), sorted(p.name for p in Path("output").rglob("*") if p.name.endswith(".tmp")))
"""
    (workplace / "program.py").write_text(program)
    result = run_on_small_disk(workplace, "6m", f"{sys.executable} program.py")
    assert result.stdout.splitlines()[-1] == "2 3 []", result.stderr
    assert result.stderr.count("\n") == 1 and "output/m/state.h5: cannot be written (No space left" in result.stderr
