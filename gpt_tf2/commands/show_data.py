"""`show-data`: what a model would be shown of a data set."""

import dataclasses
import itertools
import json
import sys

from gpt_tf2.errors import InputError
from gpt_tf2.flags import flag
from gpt_tf2.tasks import cnndm, coqa, text
from gpt_tf2.tasks.example import LeftOut

TASKS = {"text": text, "cnndm": cnndm, "coqa": coqa}


@dataclasses.dataclass(frozen=True)
class ShowDataSettings:
    """The flags of `show-data`."""

    dataset_path: str = flag(dataclasses.MISSING, "the data: a file, a folder or a glob", short="data")
    data_loader: str = flag("text", "what the data is", choices=tuple(TASKS))
    split: str = flag("train", "which part of it: train, and val and test of cnndm, dev of coqa")
    limit: int | None = flag(None, "most records printed (all)", kind=int)
    seed: int = flag(0, "of what is drawn, such as cnndm's highlight", kind=int)
    json: bool = flag(False, "print one JSON object a line", kind=bool)

    def __post_init__(self) -> None:
        """Raises InputError if a value is out of range."""
        splits = TASKS[self.data_loader].SPLITS
        if self.split not in splits:
            raise InputError(f"--split {self.split}: {self.data_loader} has {', '.join(splits)}: give one of them")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: give at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: give 0 or more")


def show_data(settings: ShowDataSettings) -> None:
    """Prints the records; what was left out on the way is told on stderr."""
    left_out = LeftOut()
    task = TASKS[settings.data_loader]
    found = task.records(settings.dataset_path, settings.split, settings.seed, left_out)
    for record in itertools.islice(found, settings.limit):
        if settings.json:
            print(json.dumps(record, ensure_ascii=False))
        else:
            print(f"== {record['id']}\n{record['prompt']}⟦{record['completion']}⟧\n")
    for line in left_out.lines():
        print(line, file=sys.stderr)
