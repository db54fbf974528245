"""`score`: figures for predictions that were made elsewhere."""

import dataclasses
import json
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from gpt_tf2.commands.flags import flag
from gpt_tf2.errors import InputError
from gpt_tf2.scoring import coqa, rouge


@dataclasses.dataclass(frozen=True)
class RougeSettings:
    """The arguments of `score rouge`."""

    predictions: str = flag(dataclasses.MISSING, "one text a line, its sentences in <t> … </t>")
    references: str = flag(dataclasses.MISSING, "the same of the references")
    json: bool = flag(False, "print JSON instead of a table", kind=bool)


@dataclasses.dataclass(frozen=True)
class CoqaSettings:
    """The arguments of `score coqa`."""

    gold: str = flag(dataclasses.MISSING, "CoQA's JSON file with the answers")
    predictions: str = flag(dataclasses.MISSING, "a JSON list of id, turn_id and answer")
    json: bool = flag(False, "print JSON instead of a table", kind=bool)


def score_rouge(settings: RougeSettings) -> dict[str, dict[str, float]]:
    """ROUGE of two files; raises InputError if they cannot be read or have not as many lines."""
    predictions, references = rouge.read_tagged(settings.predictions), rouge.read_tagged(settings.references)
    if len(predictions) != len(references) or not predictions:
        lines = f"{len(predictions)} lines, {settings.references} has {len(references)}"
        raise InputError(f"{settings.predictions} has {lines}: give one prediction a reference")
    return rouge.figures(rouge.score_corpus(predictions, references))


def score_coqa(settings: CoqaSettings) -> dict[str, dict[str, float]]:
    """CoQA's figures of a file of predictions; turns without one are told on stderr."""
    gold, sources = coqa.read_gold(settings.gold)
    predictions = coqa.read_predictions(settings.predictions)
    missing = [f"{story} turn {turn}" for story, turn in gold if (story, turn) not in predictions]
    if missing:
        print(f"{len(missing)} turns have no prediction and score 0: {', '.join(missing[:3])} …", file=sys.stderr)
    return coqa.figures(coqa.score_conversations(gold, sources, predictions))


def print_scores(rows: Mapping[str, Mapping[str, float]], as_json: bool) -> None:
    """Prints rows of figures as JSON, or as a table."""
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table("", rows)


def print_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Prints rows of figures under a title, a column for each figure."""
    table = Table(title, *next(iter(rows.values())))
    for name, row in rows.items():
        table.add_row(name, *(written(value) for value in row.values()))
    Console().print(table)


def written(value: float) -> str:
    """A figure with five digits after the point at most."""
    return f"{value:,}" if isinstance(value, int) else f"{round(value, 5)}"
