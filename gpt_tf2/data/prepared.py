"""The tokens of a data set: prepared once, kept beside the data and memory-mapped."""

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpt_tf2.data.encoding import CHAT_PASSAGE, STREAM, Encoded, encode_items, smallest_dtype
from gpt_tf2.errors import InputError
from gpt_tf2.storage.kept import KEPT_FOLDER, Kept, Sources, open_or_build
from gpt_tf2.tasks.data_files import folder_of, list_files
from gpt_tf2.tasks.examples import Skipped, no_examples
from gpt_tf2.tasks.task import Task
from gpt_tf2.tokenizer import Tokenizer

FORMAT = 4  # of the files and of the rules that they are made by: tokens of another format are prepared again
# In this order they make up `Tokens.key`. The type of the tokens depends on the vocabulary.
ARRAYS = {"tokens": None, "ends": "int64", "kinds": "uint8", "first_spans": "int64", "shortest": "int32"}
Show = Callable[[int, int | None], None]  # items encoded, and of how many if that is known


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokens of examples as spans: a passage, then for each turn a prompt and the completions to draw from.

    Those of a running text are streams of one or more spans.

    tokens: unsigned [N], span after span.
    ends: int64 [spans], where each span ends in `tokens`.
    kinds: uint8 [spans], `PASSAGE` and so on.
    first_spans: int64 [examples + 1], where each example begins in `ends`.
    shortest: int32 [examples], how many tokens an example takes with its first turn only: the passage, the prompt, the
        shortest completion and the end-of-text token.
    key: identifies the arrays, whatever code prepared them.
    content: identifies the files that they were prepared from.
    skipped: lines to show: notes on what was read, and one per reason why items were skipped.
    """

    tokens: np.ndarray
    ends: np.ndarray
    kinds: np.ndarray
    first_spans: np.ndarray
    shortest: np.ndarray
    key: str
    content: str
    skipped: list[str]

    def span(self, index: int) -> np.ndarray:
        """Return the tokens of a span, unsigned [tokens]."""
        return self.tokens[self.ends[index - 1] if index else 0 : self.ends[index]]

    def least(self, shortens: bool) -> np.ndarray:
        """How many tokens each example takes at least, int [examples]; `shortens`: without its passage."""
        return self.shortest - self.passage_lengths() if shortens else self.shortest

    def passage_lengths(self) -> np.ndarray:
        """How many tokens the passage of each example has, int [examples]."""
        passages = self.first_spans[:-1]
        starts = np.append(0, self.ends[passages[1:] - 1])
        return self.ends[passages] - starts

    def has_passage(self, end_of_text: int) -> np.ndarray:
        """Which examples have more than the token that begins a text as their passage, bool [examples]."""
        lasts = self.tokens[self.ends[self.first_spans[:-1]] - 1]
        return self.passage_lengths() > (lasts == end_of_text)

    @property
    def has_chats(self) -> bool:
        """Whether there is a chat among the examples."""
        return bool((self.kinds == CHAT_PASSAGE).any())

    def streams(self) -> list[np.ndarray]:
        """Return the streams of a running text, unsigned arrays [tokens]."""
        starts = np.flatnonzero(self.kinds == STREAM)
        return np.split(self.tokens, self.ends[starts[1:] - 1])


def prepare(
    task: Task,
    dataset_path: str,
    split: str,
    tokenizer: Tokenizer,
    cache: str | None,
    show: Show,
    on_wait: Callable[[], None],
) -> Tokens:
    """Open the tokens of a split, or prepare them if the data, the task or the vocabulary has changed.

    Args:
        dataset_path: a file, a folder or a glob.
        cache: the folder to keep them in; by default `.gpt_tf2` beside the data.
        show: called with the progress.
        on_wait: called if another process is preparing the same tokens, which are used then.

    Raises InputError if the data is bad, or the tokens cannot be written.

    Example:
        >>> coqa = find_task("coqa")  # doctest: +SKIP
        >>> tokens = prepare(coqa, "data/coqa", "train", tokenizer, None, print, lambda: None)  # doctest: +SKIP
        >>> tokenizer.decode(tokens.span(0))  # the first passage  # doctest: +SKIP
        'Once there was a red cat. …'
    """
    sources = data_sources(dataset_path)
    if not dataset_path or next(iter(sources.paths()), None) is None:
        raise InputError("no such file: give a file, a folder or a glob", "data", dataset_path)
    key = settings_key(task, split, tokenizer)

    def build(folder: Path) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context((folder / name).open("wb")) for name in ARRAYS}
            skipped = write_tokens(files, task, dataset_path, split, tokenizer, key, show)
        return {"dtype": smallest_dtype(tokenizer).name, "skipped": skipped}

    with open_or_build(
        locate_kept(f"{task.name}-{split}", dataset_path, cache),
        key,
        sources,
        build,
        on_wait=on_wait,
        fix="free space, or set `cache` to another folder",
        changed=InputError("changed while it was read: start again", "data", dataset_path),
    ) as kept:
        return open_tokens(kept)


def locate_kept(name: str, dataset_path: str, cache: str | None) -> Path:
    """The folder for what is kept of a data set under a name; see `prepare`."""
    home = Path(cache) if cache else folder_of(dataset_path) / KEPT_FOLDER
    # A relative path, so that it is found again when it moves together with the data.
    location = hashlib.sha256(os.path.relpath(dataset_path, home).encode()).hexdigest()[:8]
    return home / f"{name}-{location}"


def prepare_in_memory(task: Task, dataset_path: str, split: str, tokenizer: Tokenizer, show: Show) -> Tokens:
    """Prepare the tokens of a split without writing them; see `prepare`."""
    files = {name: io.BytesIO() for name in ARRAYS}
    key = settings_key(task, split, tokenizer)
    skipped = write_tokens(files, task, dataset_path, split, tokenizer, key, show)
    dtype = smallest_dtype(tokenizer)
    arrays = {name: np.frombuffer(files[name].getbuffer(), ARRAYS[name] or dtype) for name in ARRAYS}
    content = hashlib.sha256(
        b"".join(hashlib.sha256(array.tobytes()).digest() for array in arrays.values())
    ).hexdigest()
    return Tokens(**arrays, key=content, content=content, skipped=skipped)


def settings_key(task: Task, split: str, tokenizer: Tokenizer) -> str:
    """Hash what the tokens depend on besides the data."""
    digest = hashlib.sha256(f"{FORMAT} {split} {task.reading}\n".encode())
    for content in (task.file.read_bytes(), *tokenizer.contents):
        digest.update(content)
    return digest.hexdigest()


def data_sources(dataset_path: str) -> Sources:
    """Return the files of a data set, with names relative to it. Listing them raises InputError for a bad folder."""
    absolute = str(Path.cwd() / dataset_path)
    return Sources(lambda: list_files(absolute), lambda path: os.path.relpath(path, absolute))


def write_tokens(
    files: Mapping[str, BinaryIO],
    task: Task,
    dataset_path: str,
    split: str,
    tokenizer: Tokenizer,
    key: str,
    show: Show,
) -> list[str]:
    """Encode a split and write its arrays to the open files of `ARRAYS`. Returns lines on what was read and skipped.

    Args:
        key: see `settings_key`.

    Raises InputError if the data is bad, or nothing of it can be used.
    """
    items = task.running_text.parts(dataset_path) if task.running_text else task.items(dataset_path, split)
    total = len(items) if isinstance(items, Sized) else None
    skipped, done = Skipped(), 0
    items = skipped.take_out(items)
    writer = Writer(files, smallest_dtype(tokenizer))
    for encoded, unusable in encode_items(task, tokenizer, key, items, total):
        for example in encoded:
            writer.add(example)
        for error in unusable:
            skipped.add(error.reason, error.name)
        done += len(encoded) + len(unusable)
        show(done, total)
    if not writer.tokens:
        raise no_examples(dataset_path, split, skipped)
    return skipped.lines()


class Writer:
    """Appends encoded examples to the open files of `ARRAYS`."""

    def __init__(self, files: Mapping[str, BinaryIO], dtype: np.dtype):
        self.files, self.dtype = files, dtype
        self.spans = self.tokens = 0
        self._append("first_spans", [0])

    def add(self, example: Encoded) -> None:
        self._append("tokens", example.ids)
        self._append("ends", self.tokens + np.cumsum(example.lengths))
        self._append("kinds", example.kinds)
        self.tokens += len(example.ids)
        self.spans += len(example.kinds)
        self._append("first_spans", [self.spans])
        self._append("shortest", [example.shortest])

    def _append(self, name: str, values: Any) -> None:
        self.files[name].write(np.asarray(values, ARRAYS[name] or self.dtype).tobytes())


def open_tokens(kept: Kept) -> Tokens:
    """Map the arrays of a kept folder into memory."""
    arrays = {name: np.memmap(kept.folder / name, dtype or kept.facts["dtype"], "r") for name, dtype in ARRAYS.items()}
    key = hashlib.sha256(repr([kept.checksums[name] for name in ARRAYS]).encode()).hexdigest()
    return Tokens(**arrays, key=key, content=kept.content, skipped=kept.facts["skipped"])
