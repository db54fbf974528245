"""Splits by the names of files and folders."""

import re
from pathlib import Path

SPLIT_NAME = re.compile(r"(?<![a-z])(train|val|dev|test)(?:ing|id|idation)?(?![a-z])")


def split_of(path: Path) -> str | None:
    """The split that a file's name tells, or else its folder's: train, val, dev or test; None if neither does.

    Of several the one at the name's beginning counts, or else the last: a data set's own name comes first.

    path: relative to the folder of the data set.

    Example:
        >>> [split_of(Path(name)) for name in ("my_test_train.csv", "train_test_1.csv", "valid/part1.jsonl", "a.jsonl")]
        ['train', 'train', 'val', None]
    """
    for name in (path.name.lower(), path.parent.name.lower()):
        if words := SPLIT_NAME.findall(name):
            return str(words[0] if name.startswith(words[0]) else words[-1])
    return None


def is_split_name(stem: str) -> bool:
    """Whether a file's name is that of a split alone, as `train` or `validation` is."""
    return SPLIT_NAME.fullmatch(stem) is not None
