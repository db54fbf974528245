"""`show-data`: what a model is shown of a data set, and broken data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.cli import main
from gpt_tf2.data.encoding import encode_example
from gpt_tf2.tasks.chat_template import ChatTemplate, format_template
from gpt_tf2.tasks.lookup import find_task
from helpers.data_sets import show_data


def test_texts_are_shown_one_by_one(data_sets: Path, capsys: pytest.CaptureFixture) -> None:
    Path("text").mkdir()
    Path("text/a.txt").write_text("A tale.")
    Path("text/b.csv").write_text("text\nRow one\n")
    Path("text/c.npz").write_bytes(b"")
    records, err = show_data(capsys, "text")
    assert [record["completion"] for record in records] == ["A tale.", "<|startoftext|>Row one"]
    assert "text/c.npz" in err


def test_completions_are_shown_in_brackets(data_sets: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--data_loader=coqa", "--dataset_path=coqa", "--split=dev", "--limit=1"]
    assert main(["show-data", *flags]) == 0
    assert capsys.readouterr().out.endswith(" A:⟦ Pip⟧\n\n")


def test_with_a_model_tokens_are_counted_by_its_vocabulary_and_compared_with_its_context(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    template = ChatTemplate(("", ""), ("<u>", ""), ("<a>", ""))
    Path("models/tiny/chat.json").write_text(format_template(template))
    turns = [{"role": role, "content": "Hi there"} for role in ("user", "assistant")]
    lines = [{"prompt": "", "completion": "The tide"}, {"messages": turns * 9}]
    Path("d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["show-data", "--data=d.jsonl", "--task=jsonl", "--model=tiny", "--json"]) == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert records[2]["prompt"].startswith("<u>Hi there<a>Hi there")
    model = open_model("models/tiny")
    task = find_task("jsonl").with_template(template)
    encoded = [encode_example(task.example(item), model.tokenizer) for item in task.items("d.jsonl", "train")]
    lengths = [len(example.ids) + 1 for example in encoded]  # and the end of text
    assert [record["tokens"] for record in (records[0], records[-1])] == lengths
    longer = sum(record["tokens"] > 64 for record in records)
    assert 0 < longer < 9 and f"{longer} of 10 do not fit into 64 tokens, the context of the model" in err
    assert main(["show-data", "--data=story.txt", "--model=tiny"]) == 0
    out, err = capsys.readouterr()
    assert "== story.txt (19,329 tokens)" in out and "do not fit" not in err


@pytest.mark.parametrize(
    ("flags", "act", "words"),
    [
        ("--data_loader=cnndm --dataset_path=no", lambda: None, ["--dataset_path no", "no such file"]),
        ("--data_loader=cnndm --dataset_path=cnndm --split=dev", lambda: None, ["--split dev", "train, val, test"]),
        ("--data_loader=cnndm --dataset_path=cnndm --split=val", lambda: None, ["all_val.txt", "give the folder"]),
        ("--data_loader=cnndm --dataset_path=cnndm", lambda: shutil.rmtree("cnndm/cnn/stories"), []),
        (
            "--data_loader=cnndm --dataset_path=cnndm",
            lambda: [shutil.rmtree(f"cnndm/{site}/stories") for site in ("cnn", "dailymail")],
            ["no usable example in train", "skipped 3", "check that the data is complete"],
        ),
        (
            "--data_loader=cnndm --dataset_path=cnndm",
            lambda: Path("cnndm/url_lists/all_train.txt").write_text(""),
            ["no usable example in train", "it is empty"],
        ),
        (
            "--data_loader=cnndm --dataset_path=cnndm",
            lambda: Path("cnndm/url_lists/all_train.txt").write_bytes(b"\xff"),
            ["all_train.txt: not UTF-8", "download it again"],
        ),
        ("--data_loader=coqa --dataset_path=no", lambda: None, ["--dataset_path no", "no such file"]),
        (
            "--data_loader=coqa --dataset_path=coqa",
            lambda: Path("coqa/coqa-train-v1.0.json").write_text('{"data": [{]}'),
            ["coqa-train-v1.0.json:1: not JSON", "again"],
        ),
        (
            "--data_loader=coqa --dataset_path=coqa",
            lambda: Path("coqa/coqa-train-v1.0.json").write_text('{"stories": []}'),
            ["no list named data", "CoQA's own"],
        ),
        (
            "--data_loader=coqa --dataset_path=coqa",
            lambda: Path("coqa/coqa-train-v1.0.json").write_text('{"data": [1, 2]}'),
            ["no usable example in train", "story 1", "check that the data is complete"],
        ),
        ("--data_loader=coqa --dataset_path=coqa --limit=0", lambda: None, ["--limit 0", "at least 1"]),
        (
            "--data_loader=coqa --dataset_path=coqa --limit=99999999999999999999",
            lambda: None,
            ["--limit 9999", "below 2^63"],
        ),
        ("--data_loader=xsum --dataset_path=coqa", lambda: None, ["--data_loader", "xsum", "cnndm"]),
    ],
)
def test_a_broken_data_set_ends_in_one_line(
    flags: str, act: Callable[[], object], words: list[str], data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    act()
    code = main(["show-data", *flags.split(" ")])
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert code == (2 if words else 0)
    for word in words or ["skipped 2, no readable story file"]:
        assert word in err, err
