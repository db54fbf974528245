"""`score`: the scores of predictions in a file."""

import json
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gpt_tf2.commands.score_settings import CoqaSettings, RougeSettings
from gpt_tf2.errors import InputError
from gpt_tf2.scoring import coqa, rouge

WIDTH = 60  # columns of a table, at most


def score_rouge(settings: RougeSettings) -> dict[str, dict[str, float]]:
    """The ROUGE scores of a file of predictions.

    Raises InputError if a file cannot be read, or if the two differ in their number of lines.
    """
    predictions, references = rouge.read_tagged(settings.predictions), rouge.read_tagged(settings.references)
    if len(predictions) != len(references) or not predictions:
        lines = f"{len(predictions)} lines, but {settings.references} has {len(references)}"
        raise InputError(f"{settings.predictions} has {lines}: give one prediction per reference")
    unseen = rouge.measure_unseen([*predictions, *references])
    if unseen > 0.5:
        print(f"{unseen:.0%} of the letters are not a to z: ROUGE-1.5.5 sees no words in them", file=sys.stderr)
    return rouge.to_table(rouge.score_corpus(predictions, references))


def score_coqa(settings: CoqaSettings) -> dict[str, dict[str, float]]:
    """CoQA's scores of a file of predictions. Turns without a prediction are reported on stderr.

    Raises InputError if a file cannot be read or is malformed.
    """
    gold, sources = coqa.read_gold(settings.gold)
    predictions = coqa.read_predictions(settings.predictions)
    missing = [f"{story} turn {turn}" for story, turn in gold if (story, turn) not in predictions]
    if missing:
        examples = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        print(f"no prediction for {len(missing):,} of {len(gold):,} turns, which score 0: {examples}", file=sys.stderr)
    if unknown := [story for story, source in sources.items() if not source]:
        print(f"no source for {len(unknown):,} stories, which count in overall only", file=sys.stderr)
    return coqa.to_table(coqa.score_conversations(gold, sources, predictions))


def print_rouge(settings: RougeSettings) -> None:
    """Prints the ROUGE scores of a file of predictions."""
    print_scores(score_rouge(settings), settings.json)


def print_coqa(settings: CoqaSettings) -> None:
    """Prints CoQA's scores of a file of predictions."""
    print_scores(score_coqa(settings), settings.json)


def print_scores(scores: Mapping[str, Mapping[str, float]], as_json: bool) -> None:
    """Prints scores, row → column → value, as JSON or as a table."""
    if as_json:
        print(json.dumps(scores, indent=1))
    else:
        print_table("", scores)


def print_table(title: str, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Prints scores, row → column → value, as a table with the title above its row names.

    A single row becomes a column: the figures of a text have long names, and so has its file.
    """
    if len(scores) == 1:
        ((name, columns),) = scores.items()
        table = Table(title, Column(Text(name), overflow="fold"))
        for column, value in columns.items():
            table.add_row(column, format_score(value))
    else:
        table = Table(title, *next(iter(scores.values())))
        for name, columns in scores.items():
            table.add_row(name, *(format_score(value) for value in columns.values()))
    console = Console()
    console.print(table, width=min(WIDTH, console.width))


def format_score(value: float) -> str:
    """A score with at most five decimals, or a count."""
    return f"{value:,}" if isinstance(value, int) else f"{round(value, 5)}"
