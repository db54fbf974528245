"""The interface of a task: what its data is made of, and what the rest of the package knows about it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.storage.text_files import check_encoding
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, ChatTemplate
from gpt_tf2.vocabularies.byte_level import END_OF_TEXT

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # table, row, column: figure
Piece = str | np.ndarray | None  # of running text: text, token ids int [N], or None for the end-of-text token


class MarkedText(str):
    """A text in which `<|endoftext|>` is the token; see `Tokenizer.encode`. In others it is letters."""


class ChatText(str):
    """A text of a chat's messages, which knows what somebody wrote in it: there no control token is recognized.

    parts: text of the template and what somebody wrote, by turns, the template's first; see `MarkedText`. None, instead
        of what somebody wrote, is the end-of-text token.

    Example:
        >>> ChatText("\\nUser:", " Are you a <bot>?", "\\nAssistant:")
        '\\nUser: Are you a <bot>?\\nAssistant:'
    """

    parts: tuple[str | None, ...]

    def __new__(cls, *parts: str | None) -> "ChatText":
        text = super().__new__(cls, "".join(END_OF_TEXT if part is None else part for part in parts))
        text.parts = parts
        return text

    def removeprefix(self, prefix: str, /) -> "ChatText":
        """The text without a prefix, where the template or the end-of-text token begins with it."""
        parts = self.parts
        if parts[:2] == ("", None) and prefix.startswith(END_OF_TEXT):
            parts, prefix = parts[2:], prefix.removeprefix(END_OF_TEXT)
        first, *others = parts
        return ChatText((first or "").removeprefix(prefix), *others)


@dataclasses.dataclass(frozen=True)
class Turn:
    """A prompt and its acceptable completions; training draws one of them each time.

    The prompt of a chat is a `ChatText`, and so is its example's passage.
    """

    prompt: str
    completions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Example:
    """One example: a passage followed by turns, each a prompt and its acceptable completions.

    id: its name within the data set.
    passage: the text before the first prompt; it is shortened at its end where the context is too short.
    turns: at least one.
    reply_end: what begins the prompts of later turns, but belongs to the turn before: it is dropped together with that.
    """

    id: str
    passage: str
    turns: tuple[Turn, ...]
    reply_end: str = ""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's completions of an example's turns; of several samples, those of the first sample come first.

    number: the position of the example's item in its split, from 0.
    """

    number: int
    example: Example
    completions: tuple[str, ...]


class Unusable(ValueError):
    """Raised for an item that yields no example.

    Args:
        reason: why, in the same words for the same fault.
        name: which item.
    """

    def __init__(self, reason: str, name: str):
        super().__init__(reason, name)
        self.reason, self.name = reason, name


class Note(NamedTuple):
    """A line to show, which `items` or `parts` may yield among the others."""

    line: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the files of a data set are read; each task heeds what applies to it.

    encoding: of text without a byte order mark; None is UTF-8.
    column: of a table, by its name or its number, from 1; None is the first, or `text`.
    literal_specials: whether `<|endoftext|>` in a text is its letters instead of the token.
    highlights: of a story: `one` is drawn each time, or `all` make up one completion.
    chat_template: the text around the messages of a chat.

    Raises InputError for an unknown encoding.
    """

    encoding: str | None = None
    column: str | None = None
    literal_specials: bool = False
    highlights: str = "one"
    chat_template: ChatTemplate = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        check_encoding(self.encoding)


DEFAULT_READING = Reading()


class Part(Protocol):
    """A part of running text: cheap to list and to send to a process."""

    @property
    def label(self) -> str:
        """Its name in messages, such as the file it is from."""

    @property
    def begins(self) -> bool:
        """Whether a stream begins here; else the part continues the stream of the part before."""


@dataclasses.dataclass(frozen=True)
class RunningText:
    """Text to continue, without prompts: windows of its streams are trained on, and its perplexity is its score.

    parts: dataset_path to parts whose tokens, one part after another, are those of the streams. No window crosses from
        one stream to another. Between them may be a Note, and Unusable for a file that is skipped. Raises InputError
        if a file cannot be read.
    read: a part to its pieces: text, token ids int [N], or None for the end-of-text token.
    """

    parts: Callable[[str], Iterator[Any]]
    read: Callable[[Any], list[Piece]]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task as a value, made by `find_task` from a module.

    loader: the name that `find_task` was given; "" if the data is in memory.
    name: of the module, for the names of files.
    file: the module's source.
    reading: how the files of its data are read.
    splits: the first is for training and the last for evaluation, unless told otherwise.
    stop: a completion ends before this text, as it does before the end-of-text token; "" if only that ends it.
    loss_on: `completion`, or `all` for a loss on prompts too.
    drafts: whether completions copy from what stands before them, so that draft tokens pay.
    names: what `show-data --json` calls the passage and the completions; None leaves them out.
    suffix: of the file of predictions.
    items: (dataset_path, split) to the raw items, one for each example, cheap to list and to send to a process. Between
        them may be a Note, and Unusable for what is no item. Raises InputError if the data cannot be read at all.
    example: an item to its example. Raises Unusable if there is none in it.
    write: predictions to the content of their file.
    score: (predictions, dataset_path, split, references) to tables of figures. references: a file to score against
        instead of the data's own completions. Raises InputError if it cannot be used.
    check: (numbered examples, dataset_path, split, references); raises, before the predictions are made, the InputError
        that `score` would raise.
    running_text: how the data is read for training and scored, if it is not made of examples.
    perplexity: whether `evaluate` also measures the perplexity of the data's own completions.
    with_template: the same task with another chat template; None if it has no chats.
    joins: whether `write` and `score` join several samples of an example.
    prefers: whether a turn's completions are a chosen and a rejected one, to be compared in training, never scored.
    """

    loader: str
    name: str
    file: Path
    reading: Reading
    splits: tuple[str, ...]
    stop: str
    loss_on: str
    drafts: bool
    names: tuple[str, str] | None
    suffix: str
    items: Callable[[str, str], Iterable[Any]]
    example: Callable[[Any], Example]
    write: Callable[[Sequence[Prediction]], str]
    score: Callable[[Sequence[Prediction], str, str, str | None], Scores]
    check: Callable[[Sequence[tuple[int, Example]], str, str, str | None], None]
    running_text: RunningText | None = None
    perplexity: bool = False
    with_template: "Callable[[ChatTemplate], Task] | None" = None
    joins: bool = False
    prefers: bool = False

    def check_split(self, split: str) -> None:
        """Raises InputError if the task has no such split."""
        if split not in self.splits:
            raise InputError(f"{self.name} has {', '.join(self.splits)}: use one of them", "split", split)
