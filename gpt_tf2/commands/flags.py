"""Settings as flags: a dataclass field is a flag, with default, range and help in one place."""

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gpt_tf2.errors import InputError

Settings = TypeVar("Settings")
SYNONYMS = {"learning_rate": "lr", "--learning_rate": "--lr", "train": "finetune", "inference": "generate"}


@dataclasses.dataclass(frozen=True)
class Flag:
    """What a field's metadata says about its flag.

    help: one line.
    kind: int, float, str or bool.
    group: the heading in the help under which the flag stands.
    metavar: what the help calls the value.
    choices: the values allowed.
    also: other names of the flag. The first is that of the 2019 scripts, which a saved run knows it by.
    many: whether the value is a tuple; a command line separates its items by commas.
    replaces: another setting, which a recipe's value of it does not stand beside on the command line.
    at_least, above, below, at_most: the range of a number.
    shared: whether a resumed run must have the same value.
    """

    help: str
    kind: type = str
    group: str = ""
    metavar: str = ""
    choices: Sequence[str] = ()
    also: Sequence[str] = ()
    many: bool = False
    replaces: str = ""
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None
    shared: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether a value is of the kind, one of the choices, and within the range."""
        if self.many:
            return isinstance(value, tuple) and all(dataclasses.replace(self, many=False).accepts(v) for v in value)
        kinds: tuple[Any, ...] = (int, float) if self.kind is float else (self.kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.kind is not bool):
            return False
        if self.choices:
            return value in self.choices
        if isinstance(value, bool):
            return True
        if isinstance(value, str):
            return "\0" not in value
        return (
            not (isinstance(value, int) and value.bit_length() > 63)
            and math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def describe_range(self) -> str:
        """The values allowed, as `0 or more, less than 1`."""
        if self.choices:
            return " or ".join([", ".join(self.choices[:-1]), self.choices[-1]] if self.choices[1:] else self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return f"{'texts' if self.many else 'a text'} without NUL"
        if self.many:
            return "whole numbers, such as 10,20"
        bounds = ["a whole number"] if self.kind is int else []
        if self.at_least is not None:
            bounds.append(f"{self.at_least} or more" if self.at_least <= 0 else f"at least {self.at_least}")
        if self.above is not None:
            bounds.append(f"more than {self.above}")
        if self.below is not None:
            bounds.append(f"less than {self.below}")
        if self.at_most is not None:
            bounds.append(f"at most {self.at_most}")
        return ", ".join(bounds) or "a finite number"


def flag(default: Any, help: str, **options: Any) -> Any:
    """A dataclass field that is also a flag `--NAME`; one that is false by default takes no value.

    Args:
        default: dataclasses.MISSING makes the flag required.
        help: one line. The parser adds the default.
        options: the other fields of `Flag`.
    """
    metadata = {"flag": Flag(help, **options)}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flags_of(settings: Any) -> dict[str, Flag]:
    """The flags of a settings dataclass, or of an instance, by name."""
    return {field.name: field.metadata["flag"] for field in dataclasses.fields(settings)}


def check_ranges(settings: Any) -> None:
    """Raises InputError for the first setting of a wrong kind, or outside its choices or range.

    None is accepted where it is the default.
    """
    for field in dataclasses.fields(settings):
        name, declared, value = field.name, field.metadata["flag"], getattr(settings, field.name)
        if isinstance(value, int) and value.bit_length() > 63:
            raise InputError("too large a number: use one below 2^63", name, value)
        if not (value is None and field.default is None) and not declared.accepts(value):
            given = value if isinstance(value, declared.kind) else repr(value)
            raise InputError(f"use {declared.describe_range()}", name, given)


def make_settings(settings: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Makes settings from values by name, as a program or a file gives them.

    A name may be any that the flag has, a path stands for its text, and a list for a tuple.

    Raises InputError for an unknown or a repeated name, a missing value, or one of a wrong kind.

    Example:
        >>> make_settings(FinetuneSettings, {"data": Path("book.txt"), "base_lr": 1e-4}).lr  # doctest: +SKIP
        0.0001
    """
    named = {name: to_plain(value) for name, value in rename(settings, values).items()}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.name not in named:
            raise InputError(f"`{field.name}` is required")
        declared = field.metadata["flag"]
        if declared.many and isinstance(named.get(field.name), str):
            try:
                named[field.name] = split_items(named[field.name], declared.kind)
            except ValueError:
                raise InputError(f"use {declared.describe_range()}", field.name, named[field.name]) from None
    return settings(**named)


def rename(settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by their fields' names. Raises InputError for an unknown name, or two names of one field."""
    names = names_of(settings)
    named: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            raise InputError(f"unknown setting {name}{suggest(name, names)}")
        if names[name] in named:
            raise InputError(f"{name} and {names[name]} are two names of one setting: drop one")
        named[names[name]] = value
    return named


def names_of(settings: type) -> dict[str, str]:
    """The field that each name of a flag belongs to."""
    return {name: field for field, declared in flags_of(settings).items() for name in (field, *declared.also)}


def suggest(name: str, names: Iterable[str]) -> str:
    """The end of a message on an unknown name: the nearest known one, if one is near."""
    known = list(names)
    nearest = [SYNONYMS[name]] if SYNONYMS.get(name) in known else difflib.get_close_matches(name, known, 1, 0.7)
    return f": did you mean {nearest[0]}?" if nearest else ""


def to_plain(value: Any) -> Any:
    """A value as settings hold it: a path as its text, a list as a tuple, a number of NumPy's as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return tuple(to_plain(item) for item in value)
    return to_plain(value.tolist()) if hasattr(value, "tolist") else value


def split_items(text: str, kind: type) -> tuple:
    """The items of a text with commas. Raises ValueError if one is not of the kind."""
    return tuple(kind(item.strip()) for item in text.split(",") if item.strip())


def join_items(value: Any) -> Any:
    """A tuple as a command line has it, other values as they are."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def format_flags(settings: Mapping[str, object]) -> str:
    """Writes settings as flags, such as `--remat on --optimizer adamw`."""
    return " ".join(f"--{name} {value}" for name, value in settings.items())
