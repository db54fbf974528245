"""What a task is: a module of one file that reads its raw data, and scores what a model makes of it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from gpt_tf2.errors import InputError

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # table → row → column → figure


@dataclasses.dataclass(frozen=True)
class Turn:
    """prompt: what the model is given. completions: what it may answer with, of which one is learned at a time."""

    prompt: str
    completions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Example:
    """Text in which the model's parts are known.

    id: names it within its data set.
    passage: stands before the first prompt; where the context is too short, it is shortened at its end.
    turns: in their order, at least one.
    """

    id: str
    passage: str
    turns: tuple[Turn, ...]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model answered in an example's turns. number: the example's among the items of its split, from 0."""

    number: int
    example: Example
    completions: tuple[str, ...]


class Unusable(ValueError):
    """An item that no example can be made of. reason: the same words for the same fault. name: which item."""

    def __init__(self, reason: str, name: str):
        super().__init__(reason, name)
        self.reason, self.name = reason, name


class Task(Protocol):
    """What training, generation and scoring know of a task; a module that has these names is one."""

    __file__: str
    SPLITS: tuple[str, ...]  # the first is trained on, the last evaluated on, by default
    STOP: str  # a completion ends before this text, and before the end-of-text token; "" where that alone ends it
    NAMES: tuple[str, str] | None  # what `show-data --json` calls passage and completions; None leaves them out
    SUFFIX: str  # of the file of predictions

    def items(self, dataset_path: str, split: str) -> Iterable[Any]:
        """What examples are made of, one each, cheap to list and to send to another process.

        Raises InputError if the data cannot be read at all.
        """

    def example(self, item: Any) -> Example:
        """The example of an item. Raises Unusable if there is none in it."""

    def write(self, predictions: Sequence[Prediction]) -> str:
        """The content of the file of predictions."""

    def score(self, predictions: Sequence[Prediction], dataset_path: str, split: str, references: str | None) -> Scores:
        """Tables of figures. references: a file to score against; by default the data's own.

        Raises InputError if the references cannot be used.
        """


class LeftOut:
    """Counts what is left out, by reason, and keeps the first few names."""

    SHOWN = 3

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.names.setdefault(reason, [])
        if len(names) < self.SHOWN:
            names.append(name)

    def lines(self) -> list[str]:
        """A line a reason with the first few names."""
        return [
            f"left out {count:,}, {reason}: {', '.join(self.names[reason])}{', …' if count > self.SHOWN else ''}"
            for reason, count in self.counts.items()
        ]


def read_examples(task: Task, dataset_path: str, split: str, left_out: LeftOut) -> Iterator[tuple[int, Example]]:
    """The examples of a split with the numbers of their items; what is left out is told.

    Raises InputError if the data cannot be read, or nothing is left of it.
    """
    used = 0
    for number, item in enumerate(task.items(dataset_path, split)):
        try:
            example = task.example(item)
        except Unusable as error:
            left_out.add(error.reason, error.name)
            continue
        used += 1
        yield number, example
    if not used:
        raise nothing_left(dataset_path, split, left_out)


def nothing_left(dataset_path: str, split: str, left_out: LeftOut) -> InputError:
    reasons = "; ".join(left_out.lines()) or "it is empty"
    where = f"--dataset_path {dataset_path}: no example of {split} is left ({reasons})"
    return InputError(f"{where}: check that the data is whole, and is what --data_loader says")
