"""A task of the user's own: the example in docs/tasks.md, run through every command."""

import json
import re
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from gpt_tf2.tasks import cnndm, coqa
from gpt_tf2.tasks.lookup import OF_EXAMPLES
from helpers import made_up
from helpers.workplace import ROOT

PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
COLOURS = {"apple": "red", "leaf": "green", "sky": "blue", "snow": "white", "coal": "black", "sun": "yellow"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    Path("instructions.py").write_text(program, encoding="utf-8")
    Path("data").mkdir()
    for split in ("train", "test"):
        pairs = [{"instruction": f"Tell the colour of {thing}", "answer": colour} for thing, colour in COLOURS.items()]
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return tmp_path


def test_a_task_in_one_file_works_in_every_command(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with Path("data/train.jsonl").open("a") as file:
        file.write('{"instruction": "No answer"}\n')
    made_up.write_model(Path("models/small"), 64)
    own = ["--data_loader", "instructions.py", "--dataset_path", "data"]
    assert main(["show-data", *own, "--json"]) == 0
    out, err = capsys.readouterr()
    shown = [json.loads(line) for line in out.splitlines()]
    assert len(shown) == 6 and "skipped 1, no instruction and answer: data/train.jsonl:7" in err
    expected = {"prompt": "Tell the colour of apple\nAnswer:", "completion": " red"}
    assert shown[0] == {"id": "data/train.jsonl:1", **expected}
    training = ["--num_epoch", "1", "--steps_per_epoch", "100", "--batch_size", "4", "--length", "64"]
    training += ["--base_lr", "0.003", "--sample_every", "50", "--output_name", "mine.h5"]
    assert main(["finetune", *own, "--model", "small", *training]) == 0
    out = capsys.readouterr().out
    assert "skipped 1, no instruction and answer" in out and "data: 6 examples" in out
    assert main(["evaluate", *own, "--model", "output/mine.h5", "--temperature", "0", "--length", "10"]) == 0
    assert "exact match" in capsys.readouterr().out
    scores = json.loads(Path("output/mine_instructions_test.scores.json").read_text())
    assert scores == {"answers": {"exact match": {"share": 1.0, "answers": 6}}}
    answers = [json.loads(line) for line in Path("output/mine_instructions_test.jsonl").read_text().splitlines()]
    assert [answer["answer"] for answer in answers] == list(COLOURS.values())


def test_only_line_feeds_separate_the_lines_of_the_example(folder: Path, capsys: pytest.CaptureFixture) -> None:
    pairs = [{"instruction": f"Say{space}it", "answer": "it"} for space in "\u2028\x85\x0c "]
    lines = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
    Path("data/train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["show-data", "--data_loader=instructions.py", "--dataset_path=data", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("Say") == 4 and err == ""


def test_the_example_skips_what_is_no_pair(folder: Path, capsys: pytest.CaptureFixture) -> None:
    lines = ['{"instruction": "Say it", "answer": "it"}', "[" * 100_000, "9" * 5000, "7", '{"instruction": 7}', "{"]
    Path("data/train.jsonl").write_text("\n".join(lines))
    assert main(["show-data", "--data_loader=instructions.py", "--dataset_path=data"]) == 0
    out, err = capsys.readouterr()
    assert out.count("Say it") == 1 and err.startswith("skipped 5, no instruction and answer")


@pytest.mark.parametrize(
    ("data_loader", "words"),
    [
        ("no.py", ["--data_loader no.py", "unknown", "FILE.py"]),
        ("instructions", ["--data_loader instructions", "text, jsonl, preferences, cnndm, coqa"]),
        ("data/train.jsonl", ["--data_loader data/train.jsonl", "unknown"]),
        ("half.py", ["--data_loader half.py", "lacks STOP, NAMES, SUFFIX, example, write, score", "docs/tasks.md"]),
    ],
)
def test_a_file_that_is_not_a_task_ends_in_one_line(
    data_loader: str, words: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("half.py").write_text("SPLITS = ('train',)\ndef items(dataset_path, split): return []\n")
    for command in ("show-data", "finetune", "evaluate"):
        assert main([command, "--data_loader", data_loader, "--dataset_path", "data"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert all(word in err for word in words), err


def test_the_page_describes_every_name_of_a_task() -> None:
    assert set(OF_EXAMPLES) == {"SPLITS", "STOP", "NAMES", "SUFFIX", "items", "example", "write", "score"}
    for name in OF_EXAMPLES:
        assert name in PAGE
        assert hasattr(cnndm, name) and hasattr(coqa, name)
