"""A served model, and the same model in Python."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import gpt_tf2
from gpt_tf2 import LanguageModel
from helpers.serving import open_served, serving
from helpers.workplace import fill_workplace


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a model, which is converted for LiteRT once."""
    folder = tmp_path_factory.mktemp("serving")
    fill_workplace(folder)
    return folder / "models" / "tiny"


@pytest.fixture(scope="session")
def lm(tiny: Path) -> LanguageModel:
    return gpt_tf2.load(tiny)


@pytest.fixture(scope="module")
def url(tiny: Path, lm: LanguageModel) -> Iterator[str]:
    """The address of a server of the model."""
    models = open_served(tiny)
    models.load_first()
    with serving(models) as url:
        yield url
