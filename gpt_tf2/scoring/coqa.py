"""CoQA's F1 and exact match (Reddy et al. 2019, section 6), as the official evaluator computes them."""

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import read_json

# The source of a story, in the data → its domain, in the evaluator's results.
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
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
Kind = TypeVar("Kind")
TurnId = tuple[str, int]  # a story's id, and the number of one of its turns


@dataclasses.dataclass(frozen=True)
class Scores:
    """The averages over some turns.

    em: exact match, in percent with one decimal.
    f1: likewise.
    turns: how many.
    """

    em: float
    f1: float
    turns: int


def score_conversations(
    gold: Mapping[TurnId, list[str]], sources: Mapping[str, str], predictions: Mapping[TurnId, str]
) -> dict[str, Scores]:
    """The scores of each domain, and those of `in_domain`, `out_domain` and `overall`.

    Args:
        gold: the answers to each turn, by one person or by several.
        sources: the source of each story by its id; one that is no key of DOMAINS counts in `overall` only.
        predictions: the answer to score for each turn. A turn without one scores 0.

    Example:
        >>> gold = {("tide", 1): ["seven boats"], ("tide", 2): ["the harbour"]}
        >>> score_conversations(gold, {"tide": "gutenberg"}, {("tide", 1): "boats"})["literature"]
        Scores(em=0.0, f1=33.3, turns=2)
    """
    by_domain: dict[str, list[tuple[float, float]]] = {domain: [] for domain in DOMAINS.values()}
    unknown: list[tuple[float, float]] = []
    for turn, answers in gold.items():
        score = score_turn(answers, predictions[turn]) if turn in predictions else (0.0, 0.0)
        domain = DOMAINS.get(sources[turn[0]])
        (by_domain[domain] if domain else unknown).append(score)
    outside = [score for domain in OUT_OF_DOMAIN for score in by_domain[domain]]
    inside = [score for domain, scores in by_domain.items() if domain not in OUT_OF_DOMAIN for score in scores]
    groups = {**by_domain, "in_domain": inside, "out_domain": outside, "overall": inside + outside + unknown}
    return {name: average(scores) for name, scores in groups.items()}


def to_table(scores: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
    """The scores as a table, row → column → value."""
    return {name: dataclasses.asdict(score) for name, score in scores.items()}


def average(scores: list[tuple[float, float]]) -> Scores:
    percent = 100 / max(1, len(scores))
    em, f1 = (round(sum(score[k] for score in scores) * percent, 1) for k in (0, 1))
    return Scores(em, f1, len(scores))


def score_turn(answers: list[str], prediction: str) -> tuple[float, float]:
    """Exact match and F1 of a prediction, both 0 to 1, each for the answer that it matches best.

    With several answers, each is left out once and the results are averaged. So models are scored like people, who are
    scored against the other people's answers.

    Example:
        >>> score_turn(["the cat"], "Cat")
        (1.0, 1.0)
        >>> score_turn(["cat", "dog"], "cat")
        (0.5, 0.5)
    """
    groups = [answers[:i] + answers[i + 1 :] for i in range(len(answers))] if len(answers) > 1 else [answers]
    em = [max(float(normalize(answer) == normalize(prediction)) for answer in group) for group in groups]
    f1 = [max(token_f1(answer, prediction) for answer in group) for group in groups]
    return sum(em) / len(groups), sum(f1) / len(groups)


def token_f1(answer: str, prediction: str) -> float:
    """The F1 of a prediction's words, 0 to 1."""
    expected, predicted = normalize(answer).split(), normalize(prediction).split()
    if not expected or not predicted:
        return float(expected == predicted)
    common = (Counter(expected) & Counter(predicted)).total()
    return 2 * common / (len(expected) + len(predicted))


def normalize(answer: str) -> str:
    """The words in lower case, without punctuation and articles, separated by single spaces.

    Example:
        >>> normalize("The  Cat, a dog's!")
        'cat dogs'
    """
    return " ".join(ARTICLE.sub(" ", answer.lower().translate(NO_PUNCTUATION)).split())


def read_gold(path: str, any_source: bool = False) -> tuple[dict[TurnId, list[str]], dict[str, str]]:
    """The answers to each turn in a CoQA file, and the source of each story by its id, "" for one without.

    Args:
        any_source: whether a source may be none of CoQA's.

    Raises InputError, naming the file and the story, if the file cannot be read or is not CoQA's.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise InputError(f"{path}: no list under data: give CoQA's own JSON file")
    gold: dict[TurnId, list[str]] = {}
    sources: dict[str, str] = {}
    for number, story in enumerate(content["data"], start=1):
        where = f"{path}: story {number}"
        try:
            name = str(story["id"])
            sources[name] = str(story.get("source") or "")
            people = [story["answers"], *story.get("additional_answers", {}).values()]
            for answers in people:
                for answer in check_kind(answers, list):
                    turn = name, check_kind(answer["turn_id"], int)
                    gold.setdefault(turn, []).append(check_kind(answer["input_text"], str))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{where}: {error} is missing or malformed: give CoQA's own JSON file") from None
        if not any_source and sources[name] and sources[name] not in DOMAINS:
            raise InputError(f"{where}: source {sources[name]!r} is not CoQA's: give CoQA's own JSON file")
    return gold, sources


def check_kind(value: Any, kind: type[Kind]) -> Kind:
    """A value out of a JSON file. Raises TypeError if it is of another kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.40}, which should be {'text' if kind is str else 'a ' + kind.__name__},")
    return value


def read_predictions(path: str) -> dict[TurnId, str]:
    """The answers in a file of predictions, a JSON list of objects with `id`, `turn_id` and `answer`.

    Raises InputError, naming the file and the entry, if the file cannot be read or an entry is malformed.
    """
    content = read_json(path)
    entries: Iterable[Any] = content if isinstance(content, list) else [content]
    predictions: dict[TurnId, str] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            turn = str(entry["id"]), check_kind(entry["turn_id"], int)
            predictions[turn] = str(entry["answer"])
        except (KeyError, TypeError):
            problem = f"entry {number} is not an object with id, turn_id and answer"
            raise InputError(f"{path}: {problem}: write predictions as CoQA's evaluator reads them") from None
    return predictions
