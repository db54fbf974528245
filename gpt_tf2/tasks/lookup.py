"""Finding a task by name, or in a file of the user's."""

import dataclasses
import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import read_utf8
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tasks.task import DEFAULT_READING, Reading, RunningText, Task

BUILT_IN = ("text", "jsonl", "preferences", "cnndm", "coqa")
OF_EXAMPLES = ("SPLITS", "STOP", "NAMES", "SUFFIX", "items", "example", "write", "score")  # a module must have
OF_RUNNING_TEXT = ("SPLITS", "items", "example", "parts", "read_part")  # one with `parts` must have


def find_task(loader: str, reading: Reading = DEFAULT_READING) -> Task:
    """The task of a name, or of a `FILE.py`, which is executed.

    Args:
        reading: how its files are read.

    Raises InputError if there is none, if it does not read files that way, or if the file lacks a name that a task
    needs. An error in the file comes through.

    Example:
        >>> find_task("coqa").splits
        ('train', 'dev')
    """
    if loader in BUILT_IN:
        return make_task(loader, importlib.import_module(f"gpt_tf2.tasks.{loader}"), reading)
    path = Path(loader)
    if path.suffix != ".py" or not path.is_file():
        names = ", ".join(BUILT_IN)
        raise InputError(f"unknown task: use {names}, or the FILE.py of your own", "task", loader)
    return make_task(loader, execute_file(path.resolve(), path.read_bytes()), reading)


@functools.cache
def execute_file(path: Path, content: bytes) -> ModuleType:
    """Execute a Python file, once per process and content."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(content, str(path), "exec"), module.__dict__)
    return module


def make_task(loader: str, module: ModuleType, reading: Reading) -> Task:
    """The task that a module defines."""
    runs = hasattr(module, "parts")
    missing = [name for name in (OF_RUNNING_TEXT if runs else OF_EXAMPLES) if not hasattr(module, name)]
    if missing:
        raise InputError(f"the file lacks {', '.join(missing)}: see docs/tasks.md", "task", loader)
    heeded = getattr(module, "READS", ())  # the fields of Reading that apply
    for name, value in dataclasses.asdict(reading).items():
        if name not in heeded and value != getattr(DEFAULT_READING, name):
            raise InputError(f"does not apply to `task` {loader}: leave it out", name, None if value is True else value)
    options = {"reading": reading} if heeded else {}
    of_summaries = {"highlights": reading.highlights} if "highlights" in heeded else {}

    def with_template(template: ChatTemplate) -> Task:
        return make_task(loader, module, dataclasses.replace(reading, chat_template=template))

    return Task(
        loader=loader,
        name=Path(loader).stem,
        file=Path(str(module.__file__)),
        reading=reading,
        splits=module.SPLITS,
        stop=getattr(module, "STOP", ""),
        loss_on=getattr(module, "LOSS_ON", "all" if runs else "completion"),
        drafts=getattr(module, "DRAFTS", False),
        names=getattr(module, "NAMES", None),
        suffix=getattr(module, "SUFFIX", ".txt"),
        items=functools.partial(module.items, **options),
        example=module.example,
        write=functools.partial(getattr(module, "write", make_no_predictions), **of_summaries),
        score=functools.partial(getattr(module, "score", make_no_predictions), **of_summaries),
        check=functools.partial(getattr(module, "check", check_references), **of_summaries),
        running_text=RunningText(functools.partial(module.parts, **options), module.read_part) if runs else None,
        perplexity=getattr(module, "PERPLEXITY", False),
        with_template=with_template if "chat_template" in heeded else None,
        joins=getattr(module, "JOINS", False),
        prefers=getattr(module, "PREFERS", False),
    )


def make_no_predictions(*_: object) -> NoReturn:
    """Stands for `write` and `score` of running text, and of data that is only trained on."""
    raise TypeError("no predictions are made for this task")


def check_references(examples: object, dataset_path: str, split: str, references: str | None) -> None:
    """Stands for `check` where a task has none."""
    if references:
        read_utf8(references)
