"""What the user can mend: one line, no traceback, exit code 2."""


class InputError(ValueError):
    """Bad input. The message is one line: the flag or file, what is wrong there, and the mend."""
