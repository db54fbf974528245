"""Data that a program holds in memory, as a task: texts, pairs of prompt and completion, chats, or token ids."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.tasks import jsonl, preferences
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, ChatTemplate
from gpt_tf2.tasks.lookup import make_no_predictions
from gpt_tf2.tasks.task import Example, Piece, Reading, RunningText, Task, Turn
from gpt_tf2.tasks.text import TextPart, cut_text, read_part

PLACE = "in memory"  # stands for the path of the data in messages
KINDS = "texts, (prompt, completion) pairs, dictionaries as in JSON lines, or arrays of token ids"


class Ids(NamedTuple):
    """Token ids, a stream of their own: a part of a running text. ids: int [N]."""

    ids: np.ndarray
    label: str = PLACE
    begins: bool = True


class Record(NamedTuple):
    """A dictionary, in a form that the task `jsonl` or `preferences` reads. name: in messages."""

    name: str
    value: Mapping[str, Any]


def make_task_in_memory(data: Any, literal_specials: bool = False, prefers: bool = False) -> Task:
    """A task for training on data in memory. It can be read once.

    Args:
        data: an iterable, which is read once and lazily: strings, pairs of prompt and completion, dictionaries as on
            the lines of the task `jsonl`, or int arrays [N]; a `tf.data.Dataset` of texts, pairs or arrays; or one int
            array, [N] or [streams, N]. Texts are joined with the end-of-text token, as the files of a folder are. Pairs
            are examples, whose completions end with that token.
        literal_specials: whether `<|endoftext|>` in a text is its letters instead of the token.
        prefers: whether the data are dictionaries as on the lines of the task `preferences`.

    Raises InputError if it is something else, or empty; and, when it is read, if it mixes them.

    Example:
        >>> task = make_task_in_memory([("1 + 1 =", " 2")])
        >>> [task.example(item).turns[0].completions for item in task.items("", "train")]
        [(' 2',)]
    """
    items = (to_item(value, number) for number, value in enumerate(iterate(data), start=1))
    first = next(items, None)
    if first is None:
        raise InputError(f"`data` is empty: give {KINDS}")
    if prefers and not isinstance(first, Record):
        raise InputError("`data` has no preferences: give dictionaries with prompt, chosen and rejected")
    same_kind = check_kind(itertools.chain([first], items), type(first))
    read = preferences.to_example if prefers else jsonl.to_example
    running_text = None
    if isinstance(first, str | Ids):
        parts = cut_texts(same_kind, literal_specials) if isinstance(first, str) else same_kind
        running_text = RunningText(lambda path: parts, read_pieces)

    def with_template(template: ChatTemplate) -> Task:
        return dataclasses.replace(task, example=functools.partial(read_record, read=read, template=template))

    task = Task(
        loader="",
        name="memory",
        file=Path(__file__),
        reading=Reading(literal_specials=literal_specials),
        splits=("train",),
        stop="",
        loss_on="all" if running_text else "completion",
        drafts=False,
        names=None,
        suffix=".txt",
        items=lambda path, split: same_kind,
        example=functools.partial(read_record, read=read, template=DEFAULT_TEMPLATE),
        write=make_no_predictions,
        score=make_no_predictions,
        check=make_no_predictions,
        running_text=running_text,
        with_template=with_template if isinstance(first, Record) else None,
        prefers=prefers,
    )
    return task


def iterate(data: Any) -> Iterator[Any]:
    """The values of the data, not yet checked."""
    if hasattr(data, "as_numpy_iterator"):  # a tf.data.Dataset
        if int(data.cardinality()) == -1:
            raise InputError("`data` never ends: drop repeat() of the tf.data.Dataset")
        return data.as_numpy_iterator()
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise InputError(f"`data` is {type(data).__name__}: give a path, or {KINDS}")
    if is_ids(data) and np.asarray(data).ndim == 1:
        return iter([data])
    return iter(data)


def read_record(item: Any, read: Callable[..., Example], template: ChatTemplate) -> Example:
    """An item as an example. read: what reads a dictionary."""
    return read(item.value, item.name, template) if isinstance(item, Record) else item


def to_item(value: Any, number: int) -> str | Example | Record | Ids:
    """A text, a pair as an example, a dictionary, or token ids. number: of the value, from 1."""
    if isinstance(value, str | bytes):
        return to_text(value, number)
    if is_ids(value) and np.asarray(value).ndim == 1:
        return Ids(np.asarray(value))
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, str | bytes) for part in value):
        prompt, completion = (to_text(part, number) for part in value)
        return Example(f"pair {number:,}", "", (Turn(prompt, (completion,)),))
    if isinstance(value, Mapping):
        return Record(f"`data`: item {number:,}", value)
    raise InputError(f"`data`: item {number:,} is {describe(value)}: give {KINDS}")


def is_ids(value: Any) -> bool:
    """Whether a value is an array of integers, or a list of them."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(id, int | np.integer) and not isinstance(id, bool) for id in value)
    return isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.integer)


def to_text(value: str | bytes, number: int) -> str:
    """A text; TensorFlow's strings are bytes."""
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InputError(f"`data`: item {number:,} is not UTF-8 text at byte {error.start}: decode it") from None


def describe(value: Any) -> str:
    """A value's type, and the shape of an array or the length of a tuple."""
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"{name} of {value.dtype}, {list(value.shape)}"
    return f"{name} of {len(value)}" if isinstance(value, tuple | list) else name


def check_kind(items: Iterable[Any], kind: type) -> Iterator[Any]:
    """Yields the items. Raises InputError at the first that is not of the kind of the first one."""
    for number, item in enumerate(items, start=1):
        if not isinstance(item, kind):
            raise InputError(f"`data`: item {number:,} is of another kind than the first: give either {KINDS}")
        yield item


def cut_texts(texts: Iterable[str], literal: bool) -> Iterator[TextPart]:
    """The parts of texts, one stream."""
    begins = True
    for text in texts:
        follows = not begins
        for part in cut_text([text]):
            yield TextPart(PLACE, begins, follows, part, literal=literal)
            begins = follows = False


def read_pieces(part: Any) -> list[Piece]:
    """The pieces of a part."""
    return [part.ids] if isinstance(part, Ids) else read_part(part)
