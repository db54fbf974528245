"""What `task` and `data` mean in every command: the task, with the way its files are read."""

from typing import Protocol

from gpt_tf2.errors import InputError
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, ChatTemplate, read_template
from gpt_tf2.tasks.data_files import list_files
from gpt_tf2.tasks.lookup import BUILT_IN, find_task
from gpt_tf2.tasks.task import Reading, Task


class ReadsData(Protocol):
    """The settings of a command that reads a data set."""

    @property
    def data(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def encoding(self) -> str | None: ...
    @property
    def column(self) -> str | None: ...
    @property
    def literal_specials(self) -> bool: ...
    @property
    def highlights(self) -> str | None: ...


def find_task_of(settings: ReadsData) -> Task:
    """The task that the settings name, with the way its files are read; see `find_task`.

    Raises InputError if there is no data: now, as a model may have to be downloaded next. What a task of the user's own
    calls its data is not known here.
    """
    if settings.task in BUILT_IN and next(list_files(settings.data), None) is None:
        raise InputError("no such file: give a file, a folder or a glob", "data", settings.data)
    reading = Reading(settings.encoding, settings.column, settings.literal_specials, settings.highlights or "one")
    return find_task(settings.task, reading)


def choose_template(task: Task, file: str | None, of_model: ChatTemplate | None) -> tuple[Task, ChatTemplate]:
    """The task with the chat template that applies, and this: that of the file, that of the model, or the default.

    Raises InputError if the file cannot be read, or if the task has no chats.
    """
    if file and not task.with_template:
        data = f"`task` {task.loader}" if task.loader else "data without messages"  # in memory
        raise InputError(f"does not apply to {data}: leave it out", "chat_template", file)
    template = read_template(file) if file else of_model or DEFAULT_TEMPLATE
    return (task.with_template(template) if task.with_template else task), template
