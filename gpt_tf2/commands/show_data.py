"""`show-data`: what a model is shown of a data set."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.commands.find_model import find_model_path
from gpt_tf2.commands.find_task import choose_template, find_task_of
from gpt_tf2.commands.show_data_settings import ShowDataSettings
from gpt_tf2.data.encoding import encode_text
from gpt_tf2.tasks.examples import Skipped, read_examples
from gpt_tf2.tasks.task import Task

MARKS = {"completion": "", "chosen": " chosen", "rejected": " rejected"}  # what stands after each kind of completion
AHEAD = 1 << 20  # characters read before the first is printed: of a small data set all is known, whatever the limit


def show_data(settings: ShowDataSettings) -> None:
    """Prints each completion after its prompt; what was decided and skipped goes to stderr."""
    task, skipped = find_task_of(settings), Skipped()
    task.check_split(settings.split)
    model = open_model(find_model_path(settings.model)) if settings.model else None
    task, _ = choose_template(task, settings.chat_template, model.chat_template if model else None)
    records = list_records(task, settings, skipped, model)
    ahead = read_ahead(records)
    n_ctx = model.config.n_ctx if model and not task.running_text else sys.maxsize  # windows of a text always fit
    shown = longer = 0
    try:
        for record in itertools.islice(itertools.chain(ahead, records), settings.limit):
            shown, longer = shown + 1, longer + (record.get("tokens", 0) > n_ctx)
            print(json.dumps(record, ensure_ascii=False) if settings.json else format_record(record))
    finally:  # also if the reader of the output is gone, as `head` is
        for line in skipped.lines():
            print(line, file=sys.stderr)
    if longer:
        print(f"{longer:,} of {shown:,} do not fit into {n_ctx:,} tokens, the context of the model", file=sys.stderr)


def format_record(record: dict[str, Any]) -> str:
    """A record as lines for people."""
    completions = "\n".join(f"⟦{record[key]}⟧{mark}" for key, mark in MARKS.items() if key in record)
    tokens = f" ({record['tokens']:,} tokens)" if "tokens" in record else ""
    return f"== {record['id']}{tokens}\n{record['prompt']}{completions}\n"


def read_ahead(records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first records, with `AHEAD` characters or a little more."""
    ahead, size = [], 0
    for record in records:
        ahead.append(record)
        size += sum(len(record[key]) for key in ("prompt", *MARKS) if key in record)
        if size > AHEAD:
            break
    return ahead


def list_records(
    task: Task, settings: ShowDataSettings, skipped: Skipped, model: OpenedModel | None
) -> Iterator[dict[str, Any]]:
    """Yields a record for each turn: the text before its completion, the completion drawn, and all to draw from.

    A preference's has the chosen and the rejected completion instead. With a model each has the number of its tokens:
    what stands before, the longer completion and the end of text; of running text the text alone.
    """
    count = make_counter(model)
    for number, example in read_examples(task, settings.data, settings.split, skipped):
        draw = np.random.default_rng([settings.seed, number])
        before, tokens = example.passage, count(example.passage)
        for turn in example.turns:
            completion = turn.completions[draw.integers(len(turn.completions))]
            record: dict[str, Any] = {"id": example.id, "prompt": before + turn.prompt}
            if task.prefers:
                record["chosen"], record["rejected"] = turn.completions
            else:
                record["completion"] = completion
            if task.names:
                passage, completions = task.names
                record |= {passage: example.passage, completions: turn.completions}
            if model:
                ends = turn.completions if task.prefers else (completion,)
                around = 0 if task.running_text else max(1, tokens + count(turn.prompt)) + 1
                record["tokens"] = around + max(map(count, ends))
            yield record
            before += turn.prompt + completion
            tokens += count(turn.prompt) + count(completion)


def make_counter(model: OpenedModel | None) -> Callable[[str], int]:
    """A function that counts the tokens of a text, as a model reads it; 0 without a model."""
    return (lambda text: len(encode_text(text, model.tokenizer))) if model else lambda text: 0
