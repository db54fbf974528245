"""The task `preferences`: a prompt with two completions, the first of which is preferred, for `--objective dpo`."""

from collections.abc import Iterable
from typing import NoReturn

from gpt_tf2.errors import InputError
from gpt_tf2.tasks.json_lines import SPLITS as SPLITS
from gpt_tf2.tasks.json_lines import Line, get_text, list_lines, parse_line
from gpt_tf2.tasks.lookup import has_no_completions
from gpt_tf2.tasks.task import DEFAULT_READING, Example, Reading, Turn, Unusable

READS = ("encoding",)
STOP = ""
NAMES = None
SUFFIX = ".jsonl"
write = score = has_no_completions


def items(dataset_path: str, split: str, reading: Reading = DEFAULT_READING) -> Iterable[Line]:
    """The lines of the split's files; see `list_lines`."""
    return list_lines(dataset_path, split, reading.encoding)


def example(line: Line) -> Example:
    """The prompt with the chosen and the rejected completion.

    Raises InputError if the line is malformed, and Unusable if the completions are equal.
    """
    pair = parse_line(line)
    prompt, chosen, rejected = (get_text(pair, key, line.name) for key in ("prompt", "chosen", "rejected"))
    if chosen == rejected:
        raise Unusable("the chosen and the rejected completion are equal", line.name)
    return Example(line.name, "", (Turn(prompt, (chosen, rejected)),))


def check(*_: object) -> NoReturn:
    """Raises InputError: completions that are preferred are no references to score against."""
    raise InputError("are trained on, not scored: give prompts with one completion each", "task", "preferences")
