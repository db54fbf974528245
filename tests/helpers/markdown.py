"""The pages that people read: their blocks of code, headings and links."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.workplace import ROOT

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


class Block(NamedTuple):
    """A fenced block. language: such as sh. line: the number of its first line of content."""

    language: str
    content: str
    line: int


class Command(NamedTuple):
    """A command line of a block, on one line, with the output shown below it; None where none is shown."""

    line: str
    output: str | None


def list_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m[2], m[3], text.count("\n", 0, m.start(3)) + 1) for m in FENCE.finditer(text)]


def list_commands(block: Block) -> Iterator[Command]:
    """The command lines of a block of language sh, or of console, where a prompt `$ ` is before each."""
    if block.language == "sh":
        for line in block.content.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield Command(line, None)
    if block.language == "console":
        for part in ("\n" + block.content).split("\n$ ")[1:]:
            line, _, output = part.replace("\\\n", " ").partition("\n")
            yield Command(line, output)


def list_headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {to_anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def to_anchor(heading: str) -> str:
    """The anchor of a heading: lower case, without punctuation, words joined by hyphens."""
    return re.sub(r" +", "-", re.sub(r"[^\w\- ]", "", heading.lower()).strip())


def list_links(page: Path) -> list[str]:
    """The targets of a page's links and pictures, those in code left out."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return LINK.findall(re.sub(r"`[^`]*`", "", text))
