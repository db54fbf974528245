"""The task `coqa`: conversations turn by turn, and what is skipped and reported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import Prediction
from helpers.data_sets import show_data


def test_each_turn_is_shown_after_the_turns_before_it(data_sets: Path, capsys: pytest.CaptureFixture) -> None:
    records, err = show_data(capsys, "coqa", "--split=dev")
    assert len(records) == 11 and err == ""
    assert records[0]["prompt"].endswith("say thank you.\n Q: What was the dog called?\n A:")
    assert records[0]["completion"] == " Pip"
    assert records[1]["prompt"] == records[0]["prompt"] + " Pip\n Q: What colour was it?\n A:"
    assert {record["id"] for record in records} == {"dev-1", "dev-2"}


def edit_story(act: Callable[[dict], object]) -> None:
    """Changes the first story of CoQA's dev file."""
    path = Path("coqa/coqa-dev-v1.0.json")
    content = json.loads(path.read_text())
    act(content["data"][0])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda s: s.pop("story"), "'story'"),
        (lambda s: s.pop("answers"), "'answers'"),
        (lambda s: s["questions"][5].pop("input_text"), "'input_text'"),
        (lambda s: s["answers"][5].update(turn_id=9), "turn 6 has the ids 6 and 9"),
        (lambda s: s["questions"].reverse(), "turn 1 has the ids 6 and 1"),
        (lambda s: s["questions"].pop(), "5 questions, 6 answers"),
        (lambda s: s.update(story=None), "None is not text"),
        (lambda s: s["answers"][2].update(input_text=7), "7 is not text"),
        (lambda s: s.update(questions=[], answers=[]), "0 questions, 0 answers"),
    ],
)
def test_an_unusable_conversation_is_skipped_and_reported(
    act: Callable[[dict], object], reason: str, data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    edit_story(act)
    records, err = show_data(capsys, "coqa", "--split=dev")
    assert {record["id"] for record in records} == {"dev-2"}
    assert err.startswith("skipped 1, ") and "dev-1" in err and reason in err and err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_conversations_in_other_encodings_are_read(
    encoding: str, data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    path = Path("coqa/coqa-dev-v1.0.json")
    content = json.loads(path.read_text())
    content["data"][0]["story"] = "Un été."
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding, "replace"))
    if encoding == "cp1252":
        assert main(["show-data", "--data_loader=coqa", "--dataset_path=coqa", "--split=dev"]) == 2
        assert "coqa-dev-v1.0.json: not UTF-8 text at byte" in capsys.readouterr().err
    flags = ["--encoding=cp1252"] if encoding == "cp1252" else []
    assert show_data(capsys, "coqa", "--split=dev", *flags)[0][0]["prompt"].startswith("Un été.")


@pytest.mark.parametrize("source", [None, "my own"])
def test_conversations_without_coqas_sources_are_scored_without_domains(source: str | None, data_sets: Path) -> None:
    edit_story(lambda story: story.update(source=source, id=7))
    task = find_task("coqa")
    items = list(task.items("coqa", "dev"))
    predictions = []
    for number, item in enumerate(items):
        example = task.example(item)
        predictions.append(Prediction(number, example, tuple(turn.completions[0] for turn in example.turns)))
    table = task.score(predictions, "coqa", "dev", None)["answers"]
    turns = len(predictions[0].example.turns)
    assert table["overall"]["turns"] == 11 and table["overall"]["f1"] > 40
    assert table["in_domain"]["turns"] + table["out_domain"]["turns"] == 11 - turns
