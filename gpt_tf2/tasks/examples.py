"""Reading a task's examples, and counting the items that yield none."""

from collections.abc import Iterable, Iterator
from typing import Any

from gpt_tf2.errors import InputError
from gpt_tf2.tasks.task import Example, Note, Task, Unusable


class Skipped:
    """Counts skipped items by reason, keeps the first few names of each, and keeps the notes on what was read."""

    NAMES = 3
    NOTES = 20  # shown: a folder may hold thousands of tables

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.names.setdefault(reason, [])
        if len(names) < self.NAMES:
            names.append(name)

    def take_out(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yields the items that are neither notes nor skipped, which are kept and counted here."""
        for item in items:
            if isinstance(item, Note):
                self.notes.append(item.line)
            elif isinstance(item, Unusable):
                self.add(item.reason, item.name)
            else:
                yield item

    def lines(self) -> list[str]:
        """The notes, not too many, then one line for each reason, with the first few names."""
        more = len(self.notes) - self.NOTES
        notes = self.notes if more <= 0 else [*self.notes[: self.NOTES - 1], f"… {more + 1:,} more", self.notes[-1]]
        return [*notes, *self.skips()]

    def skips(self) -> list[str]:
        """One line for each reason, with the first few names."""
        return [
            f"skipped {count:,}, {reason}: {', '.join(self.names[reason])}{', …' if count > self.NAMES else ''}"
            for reason, count in self.counts.items()
        ]


def read_examples(task: Task, dataset_path: str, split: str, skipped: Skipped) -> Iterator[tuple[int, Example]]:
    """Yields the examples of a split, each with the number of its item; counts what it skips.

    Raises InputError if the data cannot be read, or holds no usable example.
    """
    used = 0
    for number, item in enumerate(skipped.take_out(task.items(dataset_path, split))):
        try:
            example = task.example(item)
        except Unusable as error:
            skipped.add(error.reason, error.name)
            continue
        used += 1
        yield number, example
    if not used:
        raise no_examples(dataset_path, split, skipped)


def no_examples(dataset_path: str, split: str, skipped: Skipped) -> InputError:
    """The error for a split without a usable example."""
    reasons = "; ".join(skipped.skips()) or "it is empty"
    message = f"no usable example in {split} ({reasons}): check that the data is complete and fits `task`"
    return InputError(message, "data", dataset_path)
