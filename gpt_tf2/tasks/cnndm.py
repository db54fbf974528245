"""The task `cnndm`: summaries of CNN's and the Daily Mail's stories (Hermann et al. 2015)."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import ftfy
import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.files import read_utf8
from gpt_tf2.tasks.example import Example, LeftOut

SPLITS = ("train", "val", "test")
DAILY_MAIL = ("dailymail.co.uk", "mailonsunday.ie", "lib.store.yahoo.net")
HIGHLIGHT = "@highlight"
SEPARATOR = "\nTL;DR:\n"

DATELINE = "(CNN) --"
AND_LINE = re.compile(r"\A\s*and \S+[^\S\n]*\n")
UPDATED = re.compile(r"UPDATED:\s*\d\d?:\d\d[^\n]*20\d\d[^\n]*")


@dataclasses.dataclass(frozen=True)
class Story:
    """A cleaned story. url: its id. highlights: what an editor wrote under it, each with its own line breaks."""

    url: str
    article: str
    highlights: list[str]

    def example(self, highlight: str) -> Example:
        """The article to be summarized by one of its highlights."""
        return Example(self.url, ((self.article + SEPARATOR, highlight),))


def read_stories(dataset_path: str, split: str, left_out: LeftOut) -> Iterator[Story]:
    """The stories that `url_lists/all_SPLIT.txt` names, out of `cnn/stories/` and `dailymail/stories/`, in its order.

    Args:
        left_out: is told of stories that are missing, are not UTF-8, or have no article or no highlight.

    Raises InputError if there is no such list, or nothing is left of it.
    """
    folder = Path(dataset_path)
    path = folder / "url_lists" / f"all_{split}.txt"
    urls = read_utf8(path, "give the folder of url_lists/ and cnn/", "fetch it again").split()
    used = 0
    for url in urls:
        try:
            text = (folder / story_path(url)).read_text(encoding="utf-8")
        except OSError:
            left_out.add("no story file that can be read", url)
            continue
        except UnicodeDecodeError:
            left_out.add("the story is not UTF-8", url)
            continue
        article, *highlights = clean(text).split(HIGHLIGHT)
        highlights = [highlight for highlight in highlights if highlight.strip()]
        if not article.strip() or not highlights:
            left_out.add("no article" if highlights else "no highlight", url)
            continue
        used += 1
        yield Story(url, article.strip(), highlights)
    if not used:
        reasons = "; ".join(left_out.lines()) or "the list is empty"
        raise InputError(f"{path}: no story is left ({reasons}): check the folders cnn/stories and dailymail/stories")


def story_path(url: str) -> Path:
    """Where the story of a URL lies."""
    site = "dailymail" if any(host in url for host in DAILY_MAIL) else "cnn"
    return Path(site, "stories", hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest() + ".story")


def clean(text: str) -> str:
    """A story without by-lines, datelines and time stamps, its characters mended; highlights and all."""
    text = text.strip()
    if text.startswith("By"):
        text = "\n".join(text.split("\n")[2:])
    text = text.rpartition(DATELINE)[2]
    place = text.find("(CNN)", 0, 100)
    if place >= 0:
        text = text[place + len("(CNN)") :]
    text = AND_LINE.sub("", text)
    text = UPDATED.split(text)[-1]
    text = text.replace("‘", "'").replace("’", "'")
    return re.sub(r"\n{3,}", "\n\n", ftfy.fix_text(text))


def records(dataset_path: str, split: str, seed: int, left_out: LeftOut) -> Iterator[dict]:
    """What a story comes to: its example with one highlight drawn, and what it was drawn from."""
    for number, story in enumerate(read_stories(dataset_path, split, left_out)):
        draw = np.random.default_rng([seed, number]).integers(len(story.highlights))
        prompt, completion = story.example(story.highlights[draw]).turns[0]
        shown = {"id": story.url, "prompt": prompt, "completion": completion}
        yield shown | {"article": story.article, "highlights": story.highlights}
