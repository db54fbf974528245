"""The data sets of summaries and conversations: what is read, cleaned, skipped and told."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gpt_tf2.cli import main
from gpt_tf2.tasks.cnndm import clean, items, story_path
from helpers import made_up as madeup
from helpers.processes import OPENAI_TINY, ROOT

DATA = ROOT / "tests" / "fixtures"  # made-up stories and conversations
URLS = (DATA / "cnndm" / "url_lists" / "all_train.txt").read_text().split()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `cnndm/` and `coqa/`."""
    monkeypatch.chdir(tmp_path)
    for name in ("cnndm", "coqa"):
        shutil.copytree(DATA / name, tmp_path / name)
    return tmp_path


def shown(capsys: pytest.CaptureFixture, loader: str, *flags: str) -> tuple[list[dict], str]:
    """The records that show-data prints, and what it says on stderr."""
    assert main(["show-data", f"--data_loader={loader}", f"--dataset_path={loader}", "--json", *flags]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def story(number: int) -> Path:
    return Path("cnndm") / story_path(URLS[number])


def test_articles_and_highlights_are_as_expected(folder: Path, capsys: pytest.CaptureFixture) -> None:
    records, err = shown(capsys, "cnndm")
    expected = json.loads((DATA / "cnndm" / "expected.json").read_text())
    assert [{"url": r["id"], "article": r["article"], "highlights": r["highlights"]} for r in records] == expected
    for record in records:
        assert record["prompt"] == record["article"] + "\nTL;DR:\n"
        assert record["completion"] in record["highlights"]
    assert err == ""


def test_a_highlight_is_drawn_by_the_seed(folder: Path, capsys: pytest.CaptureFixture) -> None:
    drawn = [[r["completion"] for r in shown(capsys, "cnndm", f"--seed={seed}")[0]] for seed in (1, 1, *range(2, 9))]
    assert drawn[0] == drawn[1]
    assert {completion for row in drawn for completion in row if "Clock" in completion} != set()
    assert len({tuple(row) for row in drawn}) > 3


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("By\nA. Writer\nText.", "Text."),
        ("By\nA. Writer\nand Other\nText.", "Text."),
        ("Text and more.", "Text and more."),
        ("ROME (CNN) -- One (CNN) -- Two", " Two"),
        ("Rome (CNN)Text (CNN) stays", "Text (CNN) stays"),
        ("x" * 100 + "(CNN)", "x" * 100 + "(CNN)"),
        ("UPDATED:\n\n11:40 GMT, 4 March 2013\n\nText", "\n\nText"),
        ("UPDATED: 1:40, 2012 x\nOld\nUPDATED: 11:40 EST, 4 March 2013\nText", "\nText"),
        ("It’s ‘so’ “here”", "It's 'so' \"here\""),
        ("cafÃ©", "café"),
        ("a\n\n\n\nb\n\nc", "a\n\nb\n\nc"),
    ],
)
def test_cleaning(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("http://www.dailymail.co.uk/a", "dailymail"),
        ("http://www.mailonsunday.ie/a", "dailymail"),
        ("http://lib.store.yahoo.net/a", "dailymail"),
        ("http://www.cnn.com/a", "cnn"),
        ("http://web.archive.org/web/2015id_/http://www.dailymail.co.uk/a", "dailymail"),
        ("http://edition.cnn.com/a", "cnn"),
    ],
)
def test_a_storys_site(url: str, site: str) -> None:
    assert story_path(url).parts[:2] == (site, "stories")


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda: story(0).unlink(), "no readable story file"),
        (lambda: (story(0).unlink(), story(0).mkdir()), "no readable story file"),
        (lambda: story(0).write_bytes(b"caf\xe9\n\n@highlight\n\nx"), "not UTF-8"),
        (lambda: story(0).write_text("Only an article."), "no highlight"),
        (lambda: story(0).write_text("An article.\n\n@highlight\n\n\n"), "no highlight"),
        (lambda: story(0).write_text("@highlight\n\nOnly a highlight"), "no article"),
        (lambda: story(0).write_text(""), "no highlight"),
    ],
)
def test_a_story_that_cannot_be_used_is_told(
    act: Callable[[], object], reason: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    act()
    records, err = shown(capsys, "cnndm")
    assert [record["id"] for record in records] == URLS[1:]
    assert err.startswith("skipped 1, ") and reason in err and URLS[0] in err and err.count("\n") == 1


def as_parquet(path: str, **columns: object) -> None:
    """The made-up stories as a Parquet file has them: the highlights one a line. columns: in the place of these."""
    records = json.loads((DATA / "cnndm" / "expected.json").read_text())
    table = {
        "article": [record["article"] for record in records],
        "highlights": ["\n".join(highlight.strip() for highlight in record["highlights"]) for record in records],
        "id": [record["url"] for record in records],
    } | columns
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = {name: values for name, values in table.items() if values is not None}
    pyarrow.parquet.write_table(pyarrow.table(table), path)


@pytest.mark.parametrize(
    "path", ["train-00000-of-00001.parquet", "plain_text/train/0000.parquet", "3.0.0/train-00000.parquet"]
)
def test_parquet_files_give_the_same_articles_and_highlights(
    path: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree("cnndm")
    as_parquet(f"cnndm/{path}")
    as_parquet(f"cnndm/{path.replace('train', 'validation')}", id=["a", "b", "c"])
    records, err = shown(capsys, "cnndm")
    expected = json.loads((DATA / "cnndm" / "expected.json").read_text())
    found = [{"url": r["id"], "article": r["article"], "highlights": r["highlights"]} for r in records]
    assert found == expected and err == ""
    assert [record["id"] for record in shown(capsys, "cnndm", "--split=val")[0]] == ["a", "b", "c"]


def test_one_parquet_file_without_ids_is_enough(folder: Path, capsys: pytest.CaptureFixture) -> None:
    as_parquet("some.parquet", id=None, highlights=[["One", "Two"], ["Three"], None])
    assert main(["show-data", "--data_loader=cnndm", "--dataset_path=some.parquet", "--json"]) == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["id"], record["highlights"]) for record in records] == [
        ("some.parquet:1", ["\n\nOne\n\n", "\n\nTwo"]),
        ("some.parquet:2", ["\n\nThree"]),
    ]
    assert "skipped 1, article or highlights are not text: some.parquet:3" in err


def test_parquet_rows_know_how_many_they_are(folder: Path) -> None:
    as_parquet("p/train-0.parquet")
    as_parquet("p/train-1.parquet")
    rows = items("p", "train")
    assert len(rows) == 6 == len(list(rows))


def cut(path: str, share: float) -> None:
    os.truncate(path, int(Path(path).stat().st_size * share))


def spoil(path: str) -> None:
    """Bytes in the midst of the data, before the footer."""
    content = bytearray(Path(path).read_bytes())
    content[4:200] = bytes(196)
    Path(path).write_bytes(content)


@pytest.mark.parametrize(
    ("act", "held"),
    [
        (
            lambda: as_parquet("p/train.parquet", highlights=None),
            ["train.parquet: no column highlights", "article, id"],
        ),
        (lambda: as_parquet("p/train.parquet", article=None, highlights=None), ["no column article, highlights"]),
        (
            lambda: (as_parquet("p/train.parquet"), cut("p/train.parquet", 0.5)),
            ["train.parquet: not a readable Parquet", "again"],
        ),
        (
            lambda: (as_parquet("p/train.parquet"), cut("p/train.parquet", 0)),
            ["train.parquet: not a readable Parquet", "again"],
        ),
        (
            lambda: (as_parquet("p/train.parquet"), spoil("p/train.parquet")),
            ["train.parquet: damaged after row 0", "again"],
        ),
        (
            lambda: as_parquet("p/train.parquet", article=[], highlights=[], id=[]),
            ["no usable example in train", "empty"],
        ),
        (
            lambda: as_parquet("p/train.parquet", article=[1, 2, 3]),
            ["no usable example in train", "skipped 3", "not text"],
        ),
        (
            lambda: as_parquet("p/train.parquet", article=["", " ", "\n"]),
            ["no usable example in train", "skipped 3, no article"],
        ),
        (lambda: as_parquet("p/test.parquet"), ["p/url_lists/all_train.txt", "Parquet files such as train.parquet"]),
        (lambda: Path("p").write_text("a file"), ["p/url_lists/all_train.txt", "give the folder"]),
        (lambda: Path("p").symlink_to("p"), ["p/url_lists/all_train.txt", "give the folder"]),
    ],
)
def test_parquet_files_that_are_broken(
    act: Callable[[], object], held: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    act()
    for command in ("show-data", "finetune --model=tiny", "evaluate --split=train --model=models/tiny"):
        if not command.startswith("show"):
            shutil.copytree(OPENAI_TINY, "models/tiny", dirs_exist_ok=True)
        code = main([*command.split(" "), "--data_loader=cnndm", "--dataset_path=p", *fitting(command)])
        err = capsys.readouterr().err
        assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
        for part in held:
            assert part in err or ("finetune" in command and "no file there" in err), (command, err)
    assert not list(Path().rglob("*.partial")) and not Path("output/p_tiny").exists()


def fitting(command: str) -> list[str]:
    """Flags that the tiny model needs."""
    if command.startswith("finetune"):
        return ["--length=64"]
    return ["--output_length=10"] if command.startswith("evaluate") else []


@pytest.mark.parametrize(
    ("loader", "act", "length", "held"),
    [
        (
            "cnndm",
            lambda: story(0).write_text("word " * 300 + "\n\n@highlight\n\nx"),
            256,
            ["skipped 1, longer than --length 256"],
        ),
        ("cnndm", lambda: None, 12, ["each of 3 examples is longer than --length 12", "a greater --length"]),
        ("coqa", lambda: None, 12, ["each of 2 examples is longer than --length 12", "a greater --length"]),
        ("coqa", lambda: Path("coqa/coqa-train-v1.0.json").unlink(), 256, ["coqa-train-v1.0.json", "check the path"]),
        ("cnndm", lambda: story(1).write_text("No highlight"), 256, ["skipped 1, no highlight"]),
        ("cnndm", lambda: story(1).write_bytes(b"caf\xe9 \xff"), 256, ["skipped 1, the story is not UTF-8"]),
    ],
)
def test_fine_tuning_on_what_does_not_fit_or_is_broken(
    loader: str,
    act: Callable[[], object],
    length: int,
    held: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    madeup.write_model(Path("models/tiny"), 256)
    Path("coqa/coqa-dev-v1.0.json").rename("coqa/coqa-train-v1.0.json")
    act()
    flags = [f"--data_loader={loader}", f"--dataset_path={loader}", "--model=tiny", f"--length={length}"]
    code = main(["finetune", *flags, "--num_epoch=1", "--steps_per_epoch=1"])
    out, err = capsys.readouterr()
    told = err if code else out
    assert "Traceback" not in err and (code, err.count("\n")) in ((0, 0), (2, 1)), err
    for part in held:
        assert part in told, told
    assert Path(f"output/{loader}_tiny.h5").is_file() == (code == 0)


def test_a_conversation_turn_by_turn(folder: Path, capsys: pytest.CaptureFixture) -> None:
    records, err = shown(capsys, "coqa", "--split=dev")
    assert len(records) == 11 and err == ""
    assert records[0]["prompt"].endswith("say thank you.\n Q: What was the dog called?\n A:")
    assert records[0]["completion"] == " Pip"
    assert records[1]["prompt"] == records[0]["prompt"] + " Pip\n Q: What colour was it?\n A:"
    assert {record["id"] for record in records} == {"dev-1", "dev-2"}


def edited(act: Callable[[dict], object]) -> None:
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
def test_a_conversation_that_cannot_be_used_is_told(
    act: Callable[[dict], object], reason: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    edited(act)
    records, err = shown(capsys, "coqa", "--split=dev")
    assert {record["id"] for record in records} == {"dev-2"}
    assert err.startswith("skipped 1, ") and "dev-1" in err and reason in err and err.count("\n") == 1


def test_text_as_the_model_sees_it(folder: Path, capsys: pytest.CaptureFixture) -> None:
    Path("text").mkdir()
    Path("text/a.txt").write_text("A tale.")
    Path("text/b.csv").write_text("text\nRow one\n")
    Path("text/c.npz").write_bytes(b"")
    records, err = shown(capsys, "text")
    assert [record["completion"] for record in records] == ["A tale.", "<|startoftext|>Row one"]
    assert "text/c.npz" in err


def test_people_see_the_completion_in_brackets(folder: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--data_loader=coqa", "--dataset_path=coqa", "--split=dev", "--limit=1"]
    assert main(["show-data", *flags]) == 0
    assert capsys.readouterr().out.endswith(" A:⟦ Pip⟧\n\n")


@pytest.mark.parametrize(
    ("flags", "act", "held"),
    [
        ("--data_loader=cnndm --dataset_path=no", lambda: None, ["no/url_lists/all_train.txt", "give the folder"]),
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
        ("--data_loader=coqa --dataset_path=no", lambda: None, ["no/coqa-train-v1.0.json", "check the path"]),
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
        ("--data_loader=xsum --dataset_path=coqa", lambda: None, ["--data_loader", "xsum", "cnndm"]),
    ],
)
def test_a_data_set_that_is_broken(
    flags: str, act: Callable[[], object], held: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    act()
    code = main(["show-data", *flags.split(" ")])
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert code == (2 if held else 0)
    for part in held or ["skipped 2, no readable story file"]:
        assert part in err, err
