"""Arguments to settings, with help in groups and errors of one line."""

import argparse
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from gpt_tf2.commands.flags import Flag, flags_of, make_settings, names_of, split_items, suggest
from gpt_tf2.errors import InputError

Settings = TypeVar("Settings")
GROUPS = ("text", "data", "model", "training", "sampling", "server", "memory", "output")
METAVARS = {int: "N", float: "X", str: "TEXT", bool: "YES/NO"}
OPERAND = " "  # ends the name of a value that is given without a flag
NAMES = re.compile(r"^(--\w+)(/--\w+)+")


class HelpFormatter(argparse.HelpFormatter):
    """Shows a flag by its first name; the help says the others."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if len(action.option_strings) < 2 or isinstance(action, argparse._HelpAction):
            return super()._format_action_invocation(action)
        first = action.option_strings[0]
        return first if action.nargs == 0 else f"{first} {self._format_args(action, str(action.metavar))}"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which names a flag as the user has typed it.

    typed: the name typed for each field.
    """

    typed: dict[str, str]

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        if (names := NAMES.match(message)) and (field := self.names.get(names[1][2:])):
            message = f"--{self.typed.get(field, field)}{message[names.end() :]}"
        raise InputError(f"{message} (see {self.prog} --help)")

    names: dict[str, str]


def parse(
    settings: type[Settings], arguments: Sequence[str], prog: str, about: str, positional: Sequence[str] = ()
) -> Settings:
    """Makes settings from arguments, and from the file that `--config` names; arguments override it.

    Args:
        about: what the command does, for its help.
        positional: the fields given without a flag, in order.

    Raises InputError for an unknown flag, a missing one, two names of one setting, or a value of the wrong kind.
    """
    parser = build_parser(settings, prog, about, positional)
    arguments = [use_underscores(argument, parser.names) for argument in arguments]
    parser.typed = find_typed(settings, arguments)
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise explain_unknown(unknown[0], parser)
    given = take_operands(vars(values))
    recipe = given.pop("config", None)
    if recipe:
        given = read_without_rivals(recipe, settings, given) | given
    missing = [
        field.name
        for field in dataclasses.fields(settings)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.name not in given
    ]
    if missing:
        names = " and ".join(name.upper() if name in positional else f"--{name}" for name in missing)
        raise InputError(f"{names} {'is' if len(missing) == 1 else 'are'} required (see {prog} --help)")
    return make_settings(settings, given)


def use_underscores(argument: str, names: Mapping[str, str]) -> str:
    """An argument whose flag may be written with dashes, such as `--batch-size=4`, with our underscores."""
    flag, equals, value = argument.partition("=")
    name = flag[2:].replace("-", "_")
    return f"--{name}{equals}{value}" if flag.startswith("--") and name in names else argument


def take_operands(values: dict[str, Any]) -> dict[str, Any]:
    """The values by field, of which some were given without a flag. Raises InputError if one was given twice."""
    given = {name: value for name, value in values.items() if not name.endswith(OPERAND)}
    for name in values.keys() - given.keys():
        field = name.removesuffix(OPERAND)
        if field in given:
            raise InputError(f"{field.upper()} and --{field} are one setting: drop one")
        given[field] = values[name]
    return given


def read_without_rivals(recipe: str, settings: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe, without those that given ones stand for."""
    from gpt_tf2.commands.recipes import read_recipe

    values, flags = read_recipe(recipe, settings), flags_of(settings)
    for name, declared in flags.items():
        if declared.replaces in given:
            values.pop(name, None)
        if name in given:
            values.pop(declared.replaces, None)
    return values


def find_typed(settings: type, arguments: Sequence[str]) -> dict[str, str]:
    """The name typed for each field, for messages. Raises InputError for two names of one field."""
    names, typed = names_of(settings), dict[str, str]()
    for argument in arguments:
        name = argument[2:].partition("=")[0]
        if not argument.startswith("--") or name not in names:
            continue
        before = typed.setdefault(names[name], name)
        if before != name:
            raise InputError(f"--{before} and --{name} are two names of one setting: drop one")
    return typed


def build_parser(settings: type, prog: str, about: str, positional: Sequence[str] = ()) -> Parser:
    """The parser of a command, whose flags have no defaults: those are the settings' own."""
    flags = flags_of(settings)
    operands = "".join(f" {name.upper()}{' …' * flags[name].many}" for name in positional)
    required = [
        f" --{field.name} {metavar(field.metadata['flag'])}"
        for field in dataclasses.fields(settings)
        if field.default is dataclasses.MISSING and field.name not in positional
    ]
    usage = f"{prog}{operands}{''.join(required)}" + (" [flags]" if len(flags) > len(positional) else "")
    parser = Parser(
        prog=prog, usage=usage, description=about, allow_abbrev=False, formatter_class=HelpFormatter,
        argument_default=argparse.SUPPRESS, add_help=False,
    )  # fmt: skip
    parser.names = names_of(settings)
    headings = {
        name: parser.add_argument_group(name) for name in GROUPS if any(f.group == name for f in flags.values())
    }
    for field in dataclasses.fields(settings):
        declared = flags[field.name]
        options = describe_flag(declared, field.default)
        if field.name in positional:
            nargs = "*" if declared.many else "?"
            operand = {"metavar": field.name.upper(), "nargs": nargs, "choices": None, "type": declared.kind}
            parser.add_argument(field.name + OPERAND, **options | operand)
            options["help"] = argparse.SUPPRESS
        names = [f"--{name}" for name in (field.name, *declared.also)]
        headings.get(declared.group, parser).add_argument(*names, dest=field.name, **options)
    more = parser.add_argument_group("more")
    more.add_argument("-h", "--help", action="help", help="print this and end")
    if len(flags) > len(positional):
        more.add_argument(
            "--config", metavar="FILE", help="a TOML file that sets any of these flags, such as a run's run.toml"
        )
    return parser


def describe_flag(declared: Flag, default: Any) -> dict[str, Any]:
    """The arguments of argparse for a flag."""
    about = declared.help
    if declared.also:
        about += f"; also {', '.join(f'--{name}' for name in declared.also)}"
    if default not in (dataclasses.MISSING, None, "", ()) and default is not False:
        shown = "yes" if default is True else ",".join(map(str, default)) if declared.many else default
        about += f" (default: {shown})"
    options: dict[str, Any] = {"help": about.replace("%", "%%")}
    if declared.kind is bool and default is False:
        return options | {"action": argparse.BooleanOptionalAction}
    kind: Callable[[str], Any] = declared.kind
    if declared.kind is bool:
        kind = read_yes_or_no
    elif declared.many:
        kind = functools.partial(read_items, kind=declared.kind)
    return options | {"type": kind, "choices": declared.choices or None, "metavar": metavar(declared)}


def metavar(declared: Flag) -> str:
    """What the help calls a flag's value."""
    if declared.choices:
        return "{" + ",".join(declared.choices) + "}"
    name = declared.metavar or METAVARS[declared.kind]
    return f"{name},…" if declared.many else name


def read_yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"{text!r}: use yes or no")
    return text == "yes"


def read_items(text: str, kind: type) -> tuple:
    try:
        return split_items(text, kind)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: use whole numbers with commas, such as 10,20") from None


def explain_unknown(argument: str, parser: Parser) -> InputError:
    """The error for an argument that no flag takes."""
    name = argument.partition("=")[0]
    if not name.startswith("--"):
        return InputError(f"unexpected argument {argument!r}: write a flag before it (see {parser.prog} --help)")
    nearest = suggest(name, [f"--{known}" for known in parser.names])
    return InputError(f"unknown flag {name}{nearest} (see {parser.prog} --help)")
