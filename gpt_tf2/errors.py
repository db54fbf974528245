"""What the user can fix: one line, no traceback, exit code 2."""

import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

SETTING = re.compile(r"`([a-z][a-z0-9_]*)`")
LONGEST = 300  # characters of an error's line


class InputError(ValueError):
    """Bad input, in one line: what is wrong, where, and the fix.

    The same error reads as Python to a program and as flags on the command line, so the code that raises it names
    settings and never flags.

    Args:
        message: one line. Other settings that it mentions stand in backquotes.
        setting: the setting at fault, if one is.
        value: what that was set to, if it helps to repeat it.

    Example:
        >>> error = InputError("the batch has only 2 sequences: raise `batch_size`", "accumulate", 3)
        >>> str(error)
        'accumulate=3: the batch has only 2 sequences: raise batch_size'
        >>> error.on_command_line()
        '--accumulate 3: the batch has only 2 sequences: raise --batch_size'
    """

    def __init__(self, message: str, setting: str | None = None, value: object = None):
        super().__init__(message)
        self.message, self.setting, self.value = message, setting, value

    def __str__(self) -> str:
        given = "" if self.value is None else self.value
        return to_line((f"{self.setting}={given}: " if self.setting else "") + SETTING.sub(r"\1", self.message))

    def __reduce__(self) -> tuple:
        return type(self), (self.message, self.setting, self.value)

    def on_command_line(self, typed: Mapping[str, str] | None = None) -> str:
        """The error with its settings as flags.

        typed: another name by which the user has called a setting.
        """
        names = typed or {}
        given = "" if self.value is None else f" {self.value}"
        message = SETTING.sub(lambda match: f"--{names.get(match[1], match[1])}", self.message)
        return to_line((f"--{names.get(self.setting, self.setting)}{given}: " if self.setting else "") + message)


def check_number(name: str, value: Any, kind: type, is_allowed: Callable[[Any], bool], allowed: str) -> None:
    """Raises InputError unless a parameter is a number of a kind, int or float, in a range. NumPy's numbers do, too.

    allowed: the range in words.

    Example:
        >>> check_number("top_k", 2.5, int, lambda value: value >= 0, "0 or more")
        Traceback (most recent call last):
        gpt_tf2.errors.InputError: top_k=2.5: use a whole number, 0 or more
    """
    expected, words = (numbers.Integral, "a whole number") if kind is int else (numbers.Real, "a number")
    if not isinstance(value, expected) or isinstance(value, bool):
        raise InputError(f"use {words}, {allowed}", name, repr(value))
    if not math.isfinite(value) or not is_allowed(value):
        raise InputError(f"use {allowed}", name, value)


def to_line(message: str) -> str:
    """One line of at most 300 characters, all printable. What is too long loses its middle: the fix stands at its end.

    Example:
        >>> to_line("a name \\x1b[1m\\nof two lines")
        'a name \\\\x1b[1m of two lines'
    """
    line = " ".join(message.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) <= LONGEST:
        return line
    head = LONGEST * 3 // 5
    return f"{line[:head]} … {line[len(line) - (LONGEST - head - 3) :]}"
