"""The settings shared by the commands that read a data set: how its files are read."""

from typing import Any

DATA: dict[str, Any] = {
    "help": "the data: a file, a folder or a glob; - is stdin",
    "also": ("dataset_path",),
    "group": "data",
    "metavar": "PATH",
}
TASK: dict[str, Any] = {
    "help": "the kind of data: text, jsonl (pairs and chats), preferences, cnndm, coqa, or your own task, FILE.py",
    "also": ("data_loader",),
    "group": "data",
    "metavar": "TASK",
}
ENCODING: dict[str, Any] = {
    "help": "encoding of text without a byte order mark, such as cp1252 (utf-8)",
    "group": "data",
}
COLUMN: dict[str, Any] = {
    "help": "column of a table, by its name or number (the first; text of a .jsonl or .parquet)",
    "group": "data",
}
LITERAL_SPECIALS: dict[str, Any] = {
    "help": "read <|endoftext|> in a text as letters instead of the token",
    "group": "data",
    "kind": bool,
}
HIGHLIGHTS: dict[str, Any] = {
    "help": "what a summary of cnndm is: one of the story's highlights, or all, a line each",
    "group": "data",
    "choices": ("one", "all"),
}
CHAT_TEMPLATE: dict[str, Any] = {
    "help": "JSON file of the text around the messages of a chat (the model's own; else plain User: and Assistant:)",
    "group": "data",
    "metavar": "FILE",
}
