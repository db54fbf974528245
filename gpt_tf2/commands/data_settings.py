"""The settings shared by the commands that read a data set: how its files are read."""

from typing import Protocol

from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import Reading, Task

DATA = "the data: a file, a folder or a glob; - is stdin"
ENCODING = "encoding of text without a byte order mark, such as cp1252 (utf-8)"
COLUMN = "column of a table, by its name or number (the first; text of a .jsonl or .parquet)"
LITERAL_SPECIALS = "read <|endoftext|> in a text as letters instead of the token"


class ReadsData(Protocol):
    """The settings of a command that reads a data set."""

    @property
    def data_loader(self) -> str: ...
    @property
    def encoding(self) -> str | None: ...
    @property
    def column(self) -> str | None: ...
    @property
    def literal_specials(self) -> bool: ...


def find_task_of(settings: ReadsData) -> Task:
    """The task that the settings name, with the way its files are read; see `find_task`."""
    return find_task(settings.data_loader, Reading(settings.encoding, settings.column, settings.literal_specials))
