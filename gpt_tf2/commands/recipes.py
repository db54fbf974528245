"""Recipes: the settings of a command in a TOML file, which `--config` reads and every run writes."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.commands.flags import flags_of, rename, to_plain
from gpt_tf2.errors import InputError, to_line
from gpt_tf2.storage.text_files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPE = "run.toml"  # of a run, in the folder of its model
LAST = "-last"  # ends the name of a run's last weights, where the model has the best ones


def read_recipe(path: str, settings: type) -> dict[str, Any]:
    """Reads the settings in a TOML file, by the names of their fields.

    Raises InputError, which names the file, if it cannot be read, or has an unknown key or a value of a wrong kind.

    Example:
        >>> read_recipe("recipes/text.toml", FinetuneSettings)["batch_size"]  # doctest: +SKIP
        8
    """
    values = read_toml(path)
    try:
        named = {name: to_plain(value) for name, value in rename(settings, values).items()}
    except InputError as error:
        raise InputError(f"{path}: {error.message}") from None
    for name, declared in flags_of(settings).items():
        if name in named and not declared.accepts(named[name]):
            raise InputError(f"{path}: {name} is {values.get(name, named[name])!r}: use {declared.describe_range()}")
    return named


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file. Raises InputError if it cannot be read."""
    try:
        return tomllib.loads(read_text(path).removeprefix("\ufeff"))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise InputError(f"{path}: not TOML ({error}): write one setting a line, such as epochs = 4") from None


def read_run(path: Path) -> dict[str, Any]:
    """The settings of the run that made a model, in the run.toml beside it; of its last weights in that of the best.

    Empty if there is none, or if it is damaged or somebody else's file.
    """
    folder = companion_folder(path)
    for place in (folder, Path(str(folder).removesuffix(LAST))):
        if (place / RECIPE).is_file():
            with contextlib.suppress(InputError):
                return read_toml(place / RECIPE)
    return {}


def format_recipe(settings: Any, leave_out: Sequence[str], comments: Sequence[str]) -> str:
    """Settings as the text of a TOML file, below comments. What is None is left out: it has no value in TOML.

    Raises InputError for a path that is no UTF-8, which TOML cannot hold.
    """
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(settings).items()
        if value is not None and name not in leave_out
    }
    for name, value in values.items():
        if isinstance(value, str) and not is_utf8(value):
            raise InputError("not UTF-8, which run.toml cannot hold: rename the file", name, value)
    return "".join(f"# {to_line(line)}\n" for line in comments) + tomli_w.dumps(values)


def is_utf8(text: str) -> bool:
    """Whether a text has no lone surrogates, which stand for a path's bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
