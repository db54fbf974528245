"""The task `coqa`: answers in a conversation about a passage (Reddy et al. 2019)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ftfy

from gpt_tf2.config import read_json
from gpt_tf2.errors import InputError
from gpt_tf2.tasks.example import Example, LeftOut

SPLITS = ("train", "dev")


def read_conversations(dataset_path: str, split: str, left_out: LeftOut) -> Iterator[Example]:
    """The conversations of `coqa-SPLIT-v1.0.json`: the story and the first question are the first prompt.

    Args:
        left_out: is told of stories that lack a field, or whose turns are not numbered 1, 2, 3 …

    Raises InputError if the file cannot be read, or nothing is left of it.
    """
    path = Path(dataset_path) / f"coqa-{split}-v1.0.json"
    content = read_json(path)
    stories = content.get("data") if isinstance(content, dict) else None
    if not isinstance(stories, list):
        raise InputError(f"{path}: no list under data: give the folder of CoQA's own JSON files")
    used = 0
    for number, story in enumerate(stories, start=1):
        name = str(story.get("id", f"story {number}")) if isinstance(story, dict) else f"story {number}"
        try:
            example = conversation(story)
        except (KeyError, TypeError, ValueError) as error:
            left_out.add("a field is missing or malformed", f"{name} ({error})")
            continue
        used += 1
        yield example
    if not used:
        raise InputError(f"{path}: no story is left ({'; '.join(left_out.lines()) or 'it is empty'}): fetch it again")


def conversation(story: Any) -> Example:
    """The example of one story of the file. Raises KeyError, TypeError or ValueError if it is malformed."""
    questions, answers = story["questions"], story["answers"]
    if not questions or len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions, {len(answers)} answers")
    turns = []
    before = mended(story["story"])
    for turn, (question, answer) in enumerate(zip(questions, answers, strict=True), start=1):
        if not question["turn_id"] == answer["turn_id"] == turn:
            raise ValueError(f"turn {turn} has the ids {question['turn_id']} and {answer['turn_id']}")
        turns.append((f"{before}\n Q: {mended(question['input_text'])}\n A:", f" {mended(answer['input_text'])}"))
        before = ""
    return Example(str(story["id"]), tuple(turns))


def mended(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return ftfy.fix_text(text)


def records(dataset_path: str, split: str, seed: int, left_out: LeftOut) -> Iterator[dict]:
    """A record a turn, its prompt all that stands before the answer."""
    for example in read_conversations(dataset_path, split, left_out):
        before = ""
        for prompt, completion in example.turns:
            before += prompt
            yield {"id": example.id, "prompt": before, "completion": completion}
            before += completion
