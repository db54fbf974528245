"""Splits by names: one rule for all tasks."""

from pathlib import Path

import pytest

from gpt_tf2.tasks.split_names import split_of


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("my_test_train.csv", "train"),
        ("train_test_1.jsonl", "train"),
        ("chats-Validation.jsonl", "val"),
        ("training/contest.jsonl", "train"),
        ("test/dev.jsonl", "dev"),
        ("a/val/part1.jsonl", "val"),
        ("val/a/part1.jsonl", None),
        ("retraining.jsonl", None),
    ],
)
def test_the_name_of_a_file_tells_its_split_or_else_its_folders(path: str, split: str | None) -> None:
    assert split_of(Path(path)) == split
