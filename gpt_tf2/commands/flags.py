"""Settings as command-line flags: a dataclass field is a flag, with default, range and help in one place."""

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from gpt_tf2.errors import InputError

Settings = TypeVar("Settings")


@dataclasses.dataclass(frozen=True)
class Flag:
    """What a field's metadata says about its flag.

    help: one line.
    kind: int, float, str or bool.
    choices: the values allowed.
    short: another name of the flag.
    at_least, above, below, at_most: the range of a number.
    shared: whether a resumed run must have the same value.
    """

    help: str
    kind: type = str
    choices: Sequence[str] = ()
    short: str = ""
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None
    shared: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether a value is one of the choices and within the range."""
        if self.choices:
            return value in self.choices
        if isinstance(value, str):
            return True
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def describe_range(self) -> str:
        """The values allowed, as `0 or more, less than 1`."""
        if self.choices:
            return " or ".join([", ".join(self.choices[:-1]), self.choices[-1]] if self.choices[1:] else self.choices)
        bounds = []
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
    """A dataclass field that is also a flag `--NAME`; a boolean one takes no value.

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
    """Raises InputError for the first setting outside its choices or its range; None is accepted everywhere."""
    for name, declared in flags_of(settings).items():
        value = getattr(settings, name)
        if isinstance(value, int) and value.bit_length() > 63:
            raise InputError("too large a number: use one below 2^63", name, value)
        if value is not None and not declared.accepts(value):
            raise InputError(f"use {declared.describe_range()}", name, value)


def format_flags(settings: Mapping[str, object]) -> str:
    """Writes settings as flags, such as `--remat on --optimizer adamw`."""
    return " ".join(f"--{name} {value}" for name, value in settings.items())


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def parse(
    settings: type[Settings],
    arguments: Sequence[str],
    prog: str,
    description: str,
    positional: Sequence[str] = (),
) -> Settings:
    """Makes settings from arguments.

    Args:
        positional: the fields given without a flag, in order.

    Raises InputError for an unknown flag, a missing one, or a value of the wrong kind.
    """
    parser = Parser(prog=prog, description=description, allow_abbrev=False)
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        declared: Flag = field.metadata["flag"]
        options: dict[str, Any] = {"help": declared.help.replace("%", "%%")}
        required = field.default is dataclasses.MISSING
        if declared.kind is bool:
            options["action"] = "store_true"
        else:
            options |= {"type": declared.kind, "choices": declared.choices or None}
            if not required and field.default not in (None, ""):
                options["help"] += f" (default: {field.default})"
        if field.name in positional:
            parser.add_argument(field.name, **options)
            continue
        names = [f"--{field.name}"] + ([f"--{declared.short}"] if declared.short else [])
        default = None if required else field.default
        parser.add_argument(*names, dest=field.name, required=required, default=default, **options)
    return settings(**vars(parser.parse_args(arguments)))
