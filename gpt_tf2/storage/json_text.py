"""Read JSON. All of it is read here, so that whatever a file holds, the error is one line."""

import json
from pathlib import Path

from gpt_tf2.errors import InputError


def read_json(path: str | Path) -> object:
    """Read a JSON file. Raises InputError, naming the file and the line, if it cannot be read or parsed."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from None
    return parse_json(content, str(path))


def parse_json(
    content: str | bytes, source: str, fix: str = "fetch or write the file again", line: int | None = None
) -> object:
    """Parse JSON.

    Args:
        content: text; or bytes in UTF-8, or in UTF-16 or UTF-32, with or without a byte order mark.
        source: where it comes from, for messages.
        fix: what the error advises.
        line: which line of its source the content is, for messages; by default it is all of it.

    Raises InputError for anything that is not JSON, or that Python cannot hold: numbers of more than 4,300 digits,
    thousands of lists in each other.

    Example:
        >>> parse_json(b"[1, 2]", "numbers.json")
        [1, 2]
    """
    place = source if line is None else f"{source}:{line}"
    try:
        if isinstance(content, bytes):
            content = content.decode(json.detect_encoding(content))
        return json.loads(content)
    except json.JSONDecodeError as error:
        if line is not None and str(content)[error.pos :].strip() == "," and error.msg == "Extra data":
            fix = "leave out the comma at the end of the line"
        message = f"not JSON ({error.msg} at column {error.colno})"
        raise InputError(f"{source}:{line or error.lineno}: {message}: {fix}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not {error.encoding} text at byte {error.start}: {fix}") from None
    except RecursionError:
        raise InputError(f"{place}: not JSON of this program (nested too deep): {fix}") from None
    except ValueError:
        raise InputError(f"{place}: not JSON of this program (a number of thousands of digits): {fix}") from None
