"""The task `coqa`: answers in a conversation about a passage (Reddy et al. 2019)."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ftfy

from gpt_tf2.errors import InputError
from gpt_tf2.scoring import coqa
from gpt_tf2.storage.json_text import parse_json
from gpt_tf2.storage.text_files import ENCODING_FIX, read_text
from gpt_tf2.tasks.task import DEFAULT_READING, Example, Prediction, Reading, Scores, Turn, Unusable

SPLITS = ("train", "dev")
READS = ("encoding",)
STOP = "\n"
DRAFTS = True  # answers copy from their story
NAMES = None
SUFFIX = ".json"


def items(dataset_path: str, split: str, reading: Reading = DEFAULT_READING) -> Iterable[tuple[str, Any]]:
    """The conversations of `coqa-SPLIT-v1.0.json`, each with its name. Raises InputError for another kind of file."""
    path = data_file(dataset_path, split)
    content = parse_json(read_text(path, reading.encoding, encoding_fix=ENCODING_FIX), str(path))
    stories = content.get("data") if isinstance(content, dict) else None
    if not isinstance(stories, list):
        raise InputError(f"{path}: no list named data: give the folder of CoQA's own JSON files")
    numbered = enumerate(stories, start=1)
    return [(str(s["id"]) if isinstance(s, dict) and "id" in s else f"story {number}", s) for number, s in numbered]


def data_file(dataset_path: str, split: str) -> Path:
    return Path(dataset_path) / f"coqa-{split}-v1.0.json"


def example(item: tuple[str, Any]) -> Example:
    """The story and its turns. Raises Unusable if a field is missing, or if the turns are not numbered 1, 2, 3 …"""
    name, story = item
    try:
        questions, answers = story["questions"], story["answers"]
        if not questions or len(questions) != len(answers):
            raise ValueError(f"{len(questions)} questions, {len(answers)} answers")
        passage = repair(story["story"])
        turns = [
            Turn(format_question(repair(question["input_text"])), (f" {repair(answer['input_text'])}",))
            for question, answer in zip(questions, answers, strict=True)
        ]
        for number, pair in enumerate(zip(questions, answers, strict=True), start=1):
            ids = [part["turn_id"] for part in pair]
            if ids != [number, number]:
                raise ValueError(f"turn {number} has the ids {ids[0]} and {ids[1]}")
        str(story["id"]).encode()  # it is written with the answers
        return Example(str(story["id"]), passage, tuple(turns))
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable("a field is missing or malformed", f"{name} ({error})") from None


def format_question(question: str) -> str:
    """The prompt of a question."""
    return f"\n Q: {question}\n A:"


def repair(text: Any) -> str:
    """A text with broken characters repaired by ftfy."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not text")
    return ftfy.fix_text(text)


def list_answers(predictions: Sequence[Prediction]) -> dict[coqa.TurnId, str]:
    """The answers by story and number of the turn."""
    return {
        (prediction.example.id, turn): answer.strip()
        for prediction in predictions
        for turn, answer in enumerate(prediction.completions, start=1)
    }


def write(predictions: Sequence[Prediction]) -> str:
    """The official form: a JSON list of objects with id, turn_id and answer."""
    entries = [
        {"id": story, "turn_id": turn, "answer": answer} for (story, turn), answer in list_answers(predictions).items()
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def score(predictions: Sequence[Prediction], dataset_path: str, split: str, references: str | None) -> Scores:
    """The official figures by domain and overall, over the stories of the predictions. Sources may be others.

    references: a CoQA file with the answers; by default that of the split.
    """
    gold, sources = coqa.read_gold(references or str(data_file(dataset_path, split)), any_source=True)
    asked = {prediction.example.id for prediction in predictions}
    missing = asked - sources.keys()
    if missing:
        message = f"no story {min(missing)} in it: give the file of split {split}"
        raise InputError(message, "references", references)
    gold = {turn: given for turn, given in gold.items() if turn[0] in asked}
    return {"answers": coqa.to_table(coqa.score_conversations(gold, sources, list_answers(predictions)))}


def check(examples: Sequence[tuple[int, Example]], dataset_path: str, split: str, references: str | None) -> None:
    """Raises InputError if the answers to these stories could not be scored."""
    ids = [story.id for _, story in examples]
    repeated = next((name for name, count in Counter(ids).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"{data_file(dataset_path, split)}: several stories have the id {repeated}: give each its own")
    score([Prediction(number, story, ()) for number, story in examples], dataset_path, split, references)
