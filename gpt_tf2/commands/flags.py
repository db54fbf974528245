"""Command-line flags out of a settings dataclass: one field a flag, its default and its help in one place."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from gpt_tf2.errors import InputError

Settings = TypeVar("Settings")


def flag(default: Any, help: str, *, kind: type = str, choices: Sequence[str] = (), short: str = "") -> Any:
    """A dataclass field that is also a flag `--NAME`; a boolean one takes no value.

    kind: int, float, str or bool. short: another name of the flag.
    """
    metadata = {"help": help, "kind": kind, "choices": choices, "short": short}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def format_flags(settings: Mapping[str, object]) -> str:
    """Settings as flags: `--remat on --optimizer adamw`."""
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
    """The settings that the arguments give.

    Args:
        positional: names of the fields that are given without a flag, in their order.

    Raises InputError for an unknown flag, a missing one, or a value of another kind.
    """
    parser = Parser(prog=prog, description=description, allow_abbrev=False)
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        options: dict[str, Any] = {"help": field.metadata["help"].replace("%", "%%")}
        required = field.default is dataclasses.MISSING
        if field.metadata["kind"] is bool:
            options["action"] = "store_true"
        else:
            options |= {"type": field.metadata["kind"], "choices": field.metadata["choices"] or None}
            if not required and field.default not in (None, ""):
                options["help"] += f" (default: {field.default})"
        if field.name in positional:
            parser.add_argument(field.name, **options)
            continue
        names = [f"--{field.name}"] + ([f"--{field.metadata['short']}"] if field.metadata["short"] else [])
        default = None if required else field.default
        parser.add_argument(*names, dest=field.name, required=required, default=default, **options)
    return settings(**vars(parser.parse_args(arguments)))
