"""The scripts of the repository as processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.workplace import ROOT


def start_script(script: str, *arguments: str, folder: Path, **options: Any) -> subprocess.Popen:
    """Starts a script in a folder. `options` are those of `Popen`; `env` is added to the environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments], cwd=folder, env=environment, **{**pipes, **options}
    )


def run_script(script: str, *arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess:
    """Runs a script to its end. The arguments are those of `start_script`."""
    process = start_script(script, *arguments, folder=folder, **options)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def find_free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
