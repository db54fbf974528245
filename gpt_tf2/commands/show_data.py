"""`show-data`: what a model would be shown of a data set."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt_tf2.commands.flags import flag
from gpt_tf2.errors import InputError
from gpt_tf2.tasks import check_split, find_task
from gpt_tf2.tasks.task import LeftOut, Task, read_examples


@dataclasses.dataclass(frozen=True)
class ShowDataSettings:
    """The flags of `show-data`."""

    dataset_path: str = flag(dataclasses.MISSING, "the data: a file, a folder or a glob", short="data")
    data_loader: str = flag("text", "what the data is: text, cnndm, coqa, or a task of your own, FILE.py")
    split: str = flag("train", "which part of it: train, and val and test of cnndm, dev of coqa")
    limit: int | None = flag(None, "most records printed (all)", kind=int)
    seed: int = flag(0, "of what is drawn, such as cnndm's highlight", kind=int)
    json: bool = flag(False, "print one JSON object a line", kind=bool)

    def __post_init__(self) -> None:
        """Raises InputError if a value is out of range."""
        check_split(find_task(self.data_loader), self.data_loader, self.split)
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: give at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: give 0 or more")


def show_data(settings: ShowDataSettings) -> None:
    """Prints the records; what was left out on the way is told on stderr."""
    left_out = LeftOut()
    for record in itertools.islice(records(find_task(settings.data_loader), settings, left_out), settings.limit):
        if settings.json:
            print(json.dumps(record, ensure_ascii=False))
        else:
            print(f"== {record['id']}\n{record['prompt']}⟦{record['completion']}⟧\n")
    for line in left_out.lines():
        print(line, file=sys.stderr)


def records(task: Task, settings: ShowDataSettings, left_out: LeftOut) -> Iterator[dict]:
    """A record a turn: all that stands before the completion, one completion drawn, and what it was drawn from."""
    for number, example in read_examples(task, settings.dataset_path, settings.split, left_out):
        draw = np.random.default_rng([settings.seed, number])
        before = example.passage
        for turn in example.turns:
            completion = turn.completions[draw.integers(len(turn.completions))]
            record: dict[str, Any] = {"id": example.id, "prompt": before + turn.prompt, "completion": completion}
            if task.NAMES:
                passage, completions = task.NAMES
                record |= {passage: example.passage, completions: turn.completions}
            yield record
            before += turn.prompt + completion
