"""CoQA's F1 and exact match (Reddy et al. 2019, section 6), as the official evaluator computes them."""

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import read_json

DOMAINS = {
    "mctest": "children_stories",
    "gutenberg": "literature",
    "race": "mid-high_school",
    "cnn": "news",
    "wikipedia": "wikipedia",
    "reddit": "reddit",
    "science": "science",
}
OUT_OF_DOMAIN = ("reddit", "science")
ARTICLE = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
Turn = tuple[str, int]  # a story's id and the number of a turn in it


@dataclasses.dataclass(frozen=True)
class Scores:
    """em and f1: percent, to one digit, over so many turns."""

    em: float
    f1: float
    turns: int


def score_conversations(
    gold: Mapping[Turn, list[str]], sources: Mapping[str, str], predictions: Mapping[Turn, str]
) -> dict[str, Scores]:
    """The figures by domain, `in_domain`, `out_domain` and `overall`.

    Args:
        gold: each turn's answers, one of them or several people's.
        sources: a story's id → where it is from, a key of DOMAINS.
        predictions: a turn that is missing here scores 0.
    """
    turns = {domain: [] for domain in DOMAINS.values()}  # type: dict[str, list[tuple[float, float]]]
    for turn, answers in gold.items():
        score = score_turn(answers, predictions[turn]) if turn in predictions else (0.0, 0.0)
        turns[DOMAINS[sources[turn[0]]]].append(score)
    outside = [score for domain in OUT_OF_DOMAIN for score in turns[domain]]
    inside = [score for domain, scores in turns.items() if domain not in OUT_OF_DOMAIN for score in scores]
    groups = {**turns, "in_domain": inside, "out_domain": outside, "overall": inside + outside}
    return {name: mean(scores) for name, scores in groups.items()}


def figures(scores: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
    """Scores as rows of figures by name."""
    return {name: dataclasses.asdict(score) for name, score in scores.items()}


def mean(scores: list[tuple[float, float]]) -> Scores:
    share = 100 / max(1, len(scores))
    em, f1 = (round(sum(score[k] for score in scores) * share, 1) for k in (0, 1))
    return Scores(em, f1, len(scores))


def score_turn(answers: list[str], prediction: str) -> tuple[float, float]:
    """Exact match and F1 of one prediction, each the best over the answers.

    Of several answers each is left out once and the results averaged, so that people, who are scored against each
    other, and models are scored alike.
    """
    others = [answers[:i] + answers[i + 1 :] for i in range(len(answers))] if len(answers) > 1 else [answers]
    exact = [max(float(normalized(answer) == normalized(prediction)) for answer in group) for group in others]
    f1 = [max(token_f1(answer, prediction) for answer in group) for group in others]
    return sum(exact) / len(others), sum(f1) / len(others)


def token_f1(answer: str, prediction: str) -> float:
    expected, found = normalized(answer).split(), normalized(prediction).split()
    if not expected or not found:
        return float(expected == found)
    common = (Counter(expected) & Counter(found)).total()
    return 2 * common / (len(expected) + len(found))


def normalized(answer: str) -> str:
    """Lower case without punctuation and articles, words apart by one space."""
    return " ".join(ARTICLE.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def read_gold(path: str) -> tuple[dict[Turn, list[str]], dict[str, str]]:
    """The answers of a CoQA file by turn, and each story's source.

    Raises InputError, naming the file and the place, if it is not such a file.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise InputError(f"{path}: no list under data: give CoQA's own JSON file")
    answers: dict[Turn, list[str]] = {}
    sources: dict[str, str] = {}
    for number, story in enumerate(content["data"], start=1):
        place = f"{path}: story {number}"
        try:
            sources[story["id"]] = story["source"]
            people = [story["answers"], *story.get("additional_answers", {}).values()]
            for given in people:
                for turn in given:
                    answers.setdefault((story["id"], turn["turn_id"]), []).append(turn["input_text"])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{place}: {error} is missing or malformed: give CoQA's own JSON file") from None
        if story["source"] not in DOMAINS:
            raise InputError(f"{place}: source {story['source']!r} is none of CoQA's: give CoQA's own JSON file")
    return answers, sources


def read_predictions(path: str) -> dict[Turn, str]:
    """A file of predictions in the official form, a list of `{"id", "turn_id", "answer"}`."""
    content = read_json(path)
    entries: Iterable[Any] = content if isinstance(content, list) else [content]
    found: dict[Turn, str] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            found[entry["id"], entry["turn_id"]] = str(entry["answer"])
        except (KeyError, TypeError):
            raise InputError(f"{path}: entry {number} has not id, turn_id and answer: write it so") from None
    return found
