"""Paths of the repository, and the folder that most tests work in."""

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OPENAI_TINY = ROOT / "tests" / "fixtures" / "openai_tiny"  # written by OpenAI's own graph, with what it computes
STORY = "\n".join(
    f"The {n} lanterns of Orrin burned until the tide had counted {n * 7} boats home." for n in range(400)
)


def fill_workplace(folder: Path) -> None:
    """Writes what a run needs into a folder: the model `models/tiny` and the text `story.txt`."""
    shutil.copytree(OPENAI_TINY, folder / "models" / "tiny", ignore=shutil.ignore_patterns("expected.npz", "bpe.json"))
    (folder / "story.txt").write_text(STORY)


def list_names(folder: Path) -> list[str]:
    """The names of a folder's files and folders, hidden ones too, sorted."""
    return sorted(path.name for path in folder.iterdir())


def swap_last_tokens(folder: Path) -> None:
    """Makes the vocabulary in a folder another one, in which the last two tokens have each other's id."""
    encoder_json, vocab_bpe = folder / "encoder.json", folder / "vocab.bpe"
    *lines, one, other = vocab_bpe.read_text().splitlines()
    ids = json.loads(encoder_json.read_text())
    names = [line.replace(" ", "") for line in (one, other)]
    ids |= dict(zip(names, (ids[names[1]], ids[names[0]]), strict=True))
    vocab_bpe.write_text("\n".join([*lines, other, one]) + "\n")
    encoder_json.write_text(json.dumps(ids))
