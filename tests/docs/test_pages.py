"""What the pages say about files, headings and flags is so; README stays short."""

import re
import shlex
from pathlib import Path

import pytest

import gpt_tf2
from gpt_tf2.cli import COMMANDS, split_command
from gpt_tf2.commands.parsing import parse
from helpers.markdown import PAGES, list_blocks, list_commands, list_headings, list_links
from helpers.workplace import ROOT

SCRIPTS = {
    "download_model.py": "download",
    "finetune.py": "finetune",
    "inference.py": "generate",
    "evaluate.py": "evaluate",
}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in list_links(page):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in list_headings(file), link


def list_command_lines() -> dict[str, list[str]]:
    """The words of every command of ours in the pages, without `…`, which stands for flags that do not matter."""
    lines = {}
    for page in PAGES:
        for block in list_blocks(page):
            for command in list_commands(block):
                words = shlex.split(re.split(r" (?:[12]?>|<|\|)", command.line)[0], comments=True)
                while words and "=" in words[0]:
                    del words[0]  # a variable of the environment
                if words and (words[0] == "gpt-tf2" or (words[0] == "python" and words[1] in SCRIPTS)):
                    lines[f"{name(page)}:{block.line}: {command.line}"] = words
    return lines


@pytest.mark.parametrize("words", [pytest.param(words, id=line) for line, words in list_command_lines().items()])
def test_every_command_line_is_one(words: list[str]) -> None:
    """Its flags exist and take its values; nothing is run."""
    arguments = words[1:] if words[0] == "gpt-tf2" else [SCRIPTS[words[1]], *words[2:]]
    command, rest = split_command([word for word in arguments if word != "…"])
    if rest in ([], ["--help"], ["--version"]):
        return
    assert command
    if "--config" in rest:
        del rest[rest.index("--config") : rest.index("--config") + 2]
        rest = [*rest, "--data", "book.txt"]
    parse(COMMANDS[command].find_settings(), rest, "gpt-tf2", "", COMMANDS[command].positional)


def test_every_command_is_in_the_pages() -> None:
    shown = {split_command(words[1:])[0] for words in list_command_lines().values() if words[0] == "gpt-tf2"}
    assert set(COMMANDS) <= shown


def test_every_public_name_is_documented() -> None:
    shown = re.findall(r"\w+", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    assert set(gpt_tf2.__all__) <= set(shown)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "pictures" / "demo.png").stat().st_size < 150_000
