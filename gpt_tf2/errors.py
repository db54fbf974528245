"""What the user can fix: one line, no traceback, exit code 2."""

import re

SETTING = re.compile(r"`([a-z][a-z0-9_]*)`")


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
        return (f"{self.setting}={given}: " if self.setting else "") + SETTING.sub(r"\1", self.message)

    def __reduce__(self) -> tuple:
        return type(self), (self.message, self.setting, self.value)

    def on_command_line(self) -> str:
        """The error with its settings as flags."""
        given = "" if self.value is None else f" {self.value}"
        return (f"--{self.setting}{given}: " if self.setting else "") + SETTING.sub(r"--\1", self.message)
