"""Tasks: one module each. A task knows its raw data, and no model."""

import importlib
import importlib.util
from pathlib import Path
from typing import cast

from gpt_tf2.errors import InputError
from gpt_tf2.tasks.task import Task

BUILT_IN = ("text", "cnndm", "coqa")


def find_task(data_loader: str) -> Task:
    """The task of a name, or of a file of one's own, `FILE.py`.

    Raises InputError if there is none, or it lacks one of a task's names. An error in the file comes through.
    """
    if data_loader in BUILT_IN:
        return cast(Task, importlib.import_module(f"gpt_tf2.tasks.{data_loader}"))
    path = Path(data_loader)
    specification = importlib.util.spec_from_file_location(path.stem, path) if path.suffix == ".py" else None
    if specification is None or specification.loader is None or not path.is_file():
        names = ", ".join(BUILT_IN)
        raise InputError(f"--data_loader {data_loader}: unknown: give {names}, or the FILE.py of a task of your own")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    needed = ("SPLITS", "STOP", "NAMES", "SUFFIX", "items", "example", "write", "score")
    missing = [name for name in needed if not hasattr(module, name)]
    if missing:
        raise InputError(f"--data_loader {data_loader}: no {', '.join(missing)} in it: see docs/tasks.md")
    return cast(Task, module)


def check_split(task: Task, data_loader: str, split: str) -> None:
    """Raises InputError if the task has no such split."""
    if split not in task.SPLITS:
        raise InputError(f"--split {split}: {data_loader} has {', '.join(task.SPLITS)}: give one of them")
