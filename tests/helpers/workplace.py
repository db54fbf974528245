"""Paths of the repository, and the folder that most tests work in."""

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
