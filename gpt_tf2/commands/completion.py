"""`completion`: a script that completes commands and flags in a shell."""

import argparse
from collections.abc import Mapping
from typing import Any

import shtab

from gpt_tf2.commands.completion_settings import CompletionSettings
from gpt_tf2.commands.parsing import build_parser

FILES = {"FILE": shtab.FILE, "PATH": shtab.FILE, "MODEL": shtab.FILE, "FOLDER": shtab.DIRECTORY}  # by metavar


def print_completion(settings: CompletionSettings, commands: Mapping[str, Any]) -> None:
    """Prints the script.

    Args:
        commands: the commands by name, as in the command line's own table.
    """
    parser = argparse.ArgumentParser(prog="gpt-tf2")
    parser.add_argument("--version", action="store_true", help="the versions in use")
    names = parser.add_subparsers()
    nested: dict[str, Any] = {}
    for name, command in commands.items():
        first, _, second = name.partition(" ")
        if second and first not in nested:
            nested[first] = names.add_parser(first, help="score a file of predictions").add_subparsers()
        parent = nested[first] if second else names
        own = build_parser(command.find_settings(), f"gpt-tf2 {name}", command.about, command.positional)
        for action in own._actions:
            if action.metavar in FILES:
                action.complete = FILES[action.metavar]  # type: ignore[attr-defined]
        parent.add_parser(second or first, parents=[own], add_help=False, help=command.about)
    print(shtab.complete(parser, shell=settings.shell))
