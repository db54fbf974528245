"""Real parts for the tests: a checkpoint of OpenAI's graph, scripts as processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.config import GPT2Config

if TYPE_CHECKING:
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder

ROOT = Path(__file__).parent.parent.parent
OPENAI_TINY = ROOT / "tests" / "fixtures" / "openai_tiny"  # written by OpenAI's own graph, with what it computes
STORY = "\n".join(
    f"The {n} lanterns of Orrin burned until the tide had counted {n * 7} boats home." for n in range(400)
)


def convert_to_litert(path: Path, config: GPT2Config, folder: Path) -> "LiteRTDecoder":
    """Converts a checkpoint into a folder and opens it, in float32."""
    from gpt_tf2.checkpoints.formats import open_checkpoint
    from gpt_tf2.decoding.litert.decoder import LiteRTDecoder
    from gpt_tf2.decoding.litert.graphs import convert

    convert(open_checkpoint(path), config, folder, False, lambda done, total: None)
    return LiteRTDecoder(folder, config, "float32")


def fill_workplace(folder: Path) -> None:
    """Writes what a run needs into a folder: the model `models/tiny` and the text `story.txt`."""
    shutil.copytree(OPENAI_TINY, folder / "models" / "tiny", ignore=shutil.ignore_patterns("expected.npz", "bpe.json"))
    (folder / "story.txt").write_text(STORY)


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def command(*arguments: str, folder: Path, **options) -> subprocess.Popen:
    """A script of the repository as a process of its own in `folder`."""
    script, *rest = arguments
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *rest], cwd=folder, env=environment, **{**pipes, **options}
    )


def run(*arguments: str, folder: Path, **options) -> subprocess.CompletedProcess:
    """Runs a script to its end."""
    process = command(*arguments, folder=folder, **options)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
