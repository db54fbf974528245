"""A served model, the same model in Python, and a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gpt_tf2
from gpt_tf2 import LanguageModel
from helpers.browser import BROWSERS
from helpers.serving import open_served, serving
from helpers.workplace import fill_workplace

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: install {' or '.join(BROWSERS)}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])  # CI runs as root
        yield browser
        browser.close()
