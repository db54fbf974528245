"""The Dockerfile and the unit of systemd name what exists: extras, files and a command line."""

import json
import re
import shlex

import pytest

from gpt_tf2.cli import COMMANDS, split_command
from gpt_tf2.commands.parsing import parse
from gpt_tf2.commands.recipes import read_toml
from helpers.workplace import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
UNIT = (ROOT / "packaging" / "gpt-tf2.service").read_text(encoding="utf-8")


def list_exec(instruction: str) -> list[str]:
    """The words of an instruction of the Dockerfile in its JSON form."""
    (words,) = re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return json.loads(words)


def test_extras_of_the_image_are_those_of_the_project() -> None:
    known = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    named = re.findall(r"^ARG EXTRA=(\S+)", DOCKERFILE, re.MULTILINE) + re.findall(r"--build-arg EXTRA=(\S+)", page)
    assert named == ["serve", "serve,gpu"]
    assert {extra for extras in named for extra in extras.split(",")} <= set(known)


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    copied = [name for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]]
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert name.partition("/")[0] in kept


@pytest.mark.parametrize(
    "words",
    [list_exec("ENTRYPOINT") + list_exec("CMD"), shlex.split(re.findall(r"^ExecStart=(.+)$", UNIT, re.MULTILINE)[0])],
    ids=["image", "unit"],
)
def test_the_command_line_is_one(words: list[str]) -> None:
    command, rest = split_command(words[1:])
    assert (words[0].rpartition("/")[2], command) == ("gpt-tf2", "serve")
    parse(COMMANDS["serve"].find_settings(), rest, "gpt-tf2", "", COMMANDS["serve"].positional)
