"""Files of JSON lines: their splits, and the object on each line."""

import functools
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import parse_json
from gpt_tf2.storage.text_files import ENCODING_FIX, decode, plain_suffix, read_blocks
from gpt_tf2.tasks.data_files import is_stream, list_files
from gpt_tf2.tasks.split_names import split_of
from gpt_tf2.tasks.tables import split_lines
from gpt_tf2.tasks.task import Note

SPLITS = ("train", "val", "test")
SURROGATE = re.compile("[\ud800-\udfff]")
FIX = "write one object per line"


class Line(NamedTuple):
    """A line that is not blank. number: in its file, from 1."""

    path: str
    number: int
    text: str

    @property
    def name(self) -> str:
        """The file and the line, for messages."""
        return f"{self.path}:{self.number}"


class Lines:
    """The lines of files that are not blank, read as they are iterated, after notes on files that are not read."""

    def __init__(self, paths: list[str], encoding: str | None, notes: Sequence[Note] = ()):
        self.paths, self.encoding, self.notes = paths, encoding, notes

    @functools.cached_property
    def count(self) -> int:
        """How many there are, which takes a pass over the files."""
        return sum(1 for _ in self.read())

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Line | Note]:
        return itertools.chain(self.notes, self.read())

    def read(self) -> Iterator[Line]:
        """Yields the lines, without the notes."""
        for path in self.paths:
            texts = split_lines(decode(read_blocks(path), path, self.encoding, ENCODING_FIX))
            yield from (Line(path, number, text) for number, text in enumerate(texts, start=1) if text.strip())


def list_lines(dataset_path: str, split: str, encoding: str | None) -> Lines | list[Line]:
    """The lines of a split. Only `\\n`, `\\r\\n` and `\\r` end a line.

    Args:
        dataset_path: a file or a glob, which is every split; or a folder of `.jsonl` files, of which the name, or that
            of the folder within, tells the split: train, val or validation, test. `dev` is test if there is none, else
            val. If no name tells one, all files are every split; else those that tell none are noted and not read.
        encoding: of files without a byte order mark; by default UTF-8.

    Raises InputError if there is no file of the split, and, when they are read, if one cannot be.
    """
    folder = Path(dataset_path)
    if not folder.is_dir():
        lines = Lines(list(list_files(dataset_path)), encoding)
        return list(lines.read()) if is_stream(dataset_path) else lines
    paths = [Path(path) for path in list_files(dataset_path) if plain_suffix(Path(path)) == ".jsonl"]
    by_split: dict[str | None, list[str]] = {}
    for path in paths:
        if not path.relative_to(folder).as_posix().startswith("."):
            by_split.setdefault(split_of(path.relative_to(folder)), []).append(str(path))
    if not by_split:
        raise InputError("no .jsonl file in it: give the file, or a folder with train.jsonl", "data", dataset_path)
    if list(by_split) == [None]:
        return Lines(by_split[None], encoding)
    if "dev" in by_split:
        by_split["val" if "test" in by_split else "test"] = by_split.pop("dev")
    if split not in by_split:
        there = ", ".join(name for name in SPLITS if name in by_split)
        raise InputError(f"no {split}.jsonl in it, only {there}: give one of these as `split`", "data", dataset_path)
    return Lines(by_split[split], encoding, note_unnamed(dataset_path, by_split.get(None, [])))


def note_unnamed(dataset_path: str, paths: Sequence[str | Path]) -> list[Note]:
    """A note on the files of a folder whose names tell no split, while those of others do; none if there are none."""
    names = ", ".join(os.path.relpath(path, dataset_path) for path in paths[:5]) + (", …" if paths[5:] else "")
    return [Note(f"{dataset_path}: not read, as no split is in their names: {names}")] if paths else []


def parse_line(line: Line) -> dict[str, Any]:
    """The object on a line. Raises InputError, naming file and line, if it is none."""
    if line.text.lstrip().startswith("["):
        raise InputError(f"{line.name}: a JSON list: {FIX}, as jq -c '.[]' does")
    value = parse_json(line.text, line.path, FIX, line.number)
    if not isinstance(value, dict):
        raise InputError(f"{line.name}: {describe(value)} is not an object: {FIX}")
    return value


def get_text(value: Mapping[str, Any], key: str, name: str) -> str:
    """The text under a key of an object, half surrogate pairs replaced by U+FFFD.

    name: of the object, for the error. Raises InputError if it is missing or no text.
    """
    if key not in value:
        raise InputError(
            f'{name}: "{key}" is missing, there is {list_keys(value)}: add it, or rename what stands for it'
        )
    if not isinstance(value[key], str):
        raise InputError(f'{name}: "{key}" is {describe(value[key])}, not text: write a text in quotes')
    return SURROGATE.sub("\ufffd", value[key])


def describe(value: Any) -> str:
    """A value for an error; only its kind if it is large."""
    if isinstance(value, Mapping | list):
        return "an object" if isinstance(value, Mapping) else "a list"
    return json.dumps(value, default=repr)[:40]


def list_keys(value: Mapping[str, Any]) -> str:
    """The keys of an object, for an error."""
    return ", ".join(json.dumps(str(key)) for key in value) or "nothing"
