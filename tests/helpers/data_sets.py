"""The made-up stories and conversations of `tests/fixtures`."""

import json
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from gpt_tf2.tasks.cnndm import story_path
from helpers.processes import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
URLS = (FIXTURES / "cnndm" / "url_lists" / "all_train.txt").read_text().split()


def story(number: int) -> Path:
    """A story's file in the folder of the fixture `data_sets`."""
    return Path("cnndm") / story_path(URLS[number])


def show_data(capsys: pytest.CaptureFixture, loader: str, *flags: str) -> tuple[list[dict], str]:
    """Runs `show-data` on the folder with the loader's name → the records that it prints, and its stderr."""
    assert main(["show-data", f"--data_loader={loader}", f"--dataset_path={loader}", "--json", *flags]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err
