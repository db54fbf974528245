"""The task `cnndm`: stories in both layouts, how they are cleaned, and what is skipped and reported."""

import csv
import gzip
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gpt_tf2.cli import main
from gpt_tf2.tasks.cnndm import (
    TableStory,
    check,
    clean,
    drop_beginning,
    example,
    items,
    score,
    story_path,
    write,
)
from gpt_tf2.tasks.task import Example, Prediction, Turn
from helpers.data_sets import FIXTURES, URLS, show_data, story
from helpers.workplace import OPENAI_TINY


def test_articles_and_highlights_equal_the_expected_ones(data_sets: Path, capsys: pytest.CaptureFixture) -> None:
    records, err = show_data(capsys, "cnndm")
    expected = json.loads((FIXTURES / "cnndm" / "expected.json").read_text())
    assert [{"url": r["id"], "article": r["article"], "highlights": r["highlights"]} for r in records] == expected
    for record in records:
        assert record["prompt"] == record["article"] + "\nTL;DR:\n"
        assert record["completion"] in record["highlights"]
    assert err == ""


def test_every_highlight_is_drawn_by_some_seed_and_the_same_one_by_the_same_seed(
    data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    runs = [show_data(capsys, "cnndm", f"--seed={seed}")[0] for seed in (1, 1, *range(2, 20))]
    assert runs[0] == runs[1]
    for records in zip(*runs, strict=True):
        assert {record["completion"] for record in records} == set(records[0]["highlights"])
    assert max(len(record["highlights"]) for record in runs[0]) > 1


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("By\nA. Writer\nText.", "Text."),
        ("By\nA. Writer\nand Other\nText.", "Text."),
        ("Text and more.", "Text and more."),
        ("ROME (CNN) -- One (CNN) -- Two", " Two"),
        ("Rome (CNN)Text (CNN) stays", "Text (CNN) stays"),
        ("x" * 100 + "(CNN)", "x" * 100 + "(CNN)"),
        ("By Jane Doe and John Roe\n\nText.", "Text."),
        ("By the time it rained\n\nText.", "By the time it rained\n\nText."),
        ("Byron wrote.\n\nText.", "Byron wrote.\n\nText."),
        ("By Orrin Harbour.\n\nText.", "By Orrin Harbour.\n\nText."),
        (
            "One. UPDATED: 15:36 EST, 25 October 2013 . Two\nText",
            "One. UPDATED: 15:36 EST, 25 October 2013 . Two\nText",
        ),
        ("PUBLISHED: 11:40 GMT, 4 March 2013 | UPDATED: 12:40 GMT, 4 March 2013\nText", "\nText"),
        ("PUBLISHED:\n\n11:40 GMT, 4 March 2013\n\n|\n\nUPDATED:\n\n12:40 GMT, 4 March 2013\n\nText", "\n\nText"),
        ("UPDATED:\n\n11:40 GMT, 4 March 2013\n\nText", "\n\nText"),
        ("UPDATED: 1:40, 2012 x\nOld\nUPDATED: 11:40 EST, 4 March 2013\nText", "\nText"),
        ("It’s ‘so’ “here”", "It's 'so' \"here\""),
        ("cafÃ©", "café"),
        ("a\n\n\n\nb\n\nc", "a\n\nb\n\nc"),
    ],
)
def test_an_article_is_cleaned(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


BODY = "The mayor lit the lamps. By . then (CNN) -- boats came home. UPDATED: 1:00, 2012 . Nobody saw them"


@pytest.mark.parametrize(
    "beginning",
    [
        "By . Jane Doe . PUBLISHED: . 14:11 EST, 25 October 2013 . | . UPDATED: . 15:36 EST, 25 October 2013 . ",
        "By . Jane Doe for Daily Mail Australia . ",
        "By . Jane Doe . and John Roe . PUBLISHED: . 4:11 EST, 5 October 2013 . ",
        "By . J. R. Doe . ",
        "By Jane Doe for the Orrin Times . ",
        "PUBLISHED: . 10:10 EST, 30 June 2013 . | . UPDATED: . 02:30 EST, 1 July 2013 . ",
        "UPDATED: . 02:30 EST, 1 July 2013 . ",
    ],
)
def test_an_article_of_one_line_loses_its_byline_and_time_stamps(beginning: str) -> None:
    (turn,) = example(TableStory("1", beginning + BODY, "Lamps ‘lit’ .\nBoats .")).turns
    assert turn.completions == ("\n\nLamps 'lit' .\n\n", "\n\nBoats .")
    assert example(TableStory("1", beginning + BODY, "Lamps .")).passage == BODY


@pytest.mark.parametrize(
    "beginning",
    [
        "By the time the lamps were lit the boats were home. ",
        "By Monday the boats were home . ",
        "By 2010 . ",
        "Byron lit the lamps. ",
        "LONDON, England (CNN) -- ",
        "(CNN)",
        "A first sentence. UPDATED: 15:36 EST, 25 October 2013 . ",
        "and boats . ",
    ],
)
def test_an_article_of_one_line_loses_nothing_else(beginning: str) -> None:
    assert example(TableStory("1", beginning + BODY, "Lamps .")).passage == beginning + BODY


def test_time_stamps_are_found_in_linear_time() -> None:
    """It took 100 s."""
    text = "UPDATED: 12:30 " * 70_000
    assert clean(text) == text.strip()
    assert drop_beginning(text) == text
    assert clean("PUBLISHED: 12:30 " * 10_000 + "\nUPDATED: 12:30, 2013\nText") == "\nText"


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
def test_a_storys_site_follows_from_its_url(url: str, site: str) -> None:
    assert story_path(url).parts[:2] == (site, "stories")


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda: story(0).unlink(), "no readable story file"),
        (lambda: (story(0).unlink(), story(0).mkdir()), "no readable story file"),
        (lambda: story(0).write_text("Only an article."), "no highlight"),
        (lambda: story(0).write_text("An article.\n\n@highlight\n\n\n"), "no highlight"),
        (lambda: story(0).write_text("@highlight\n\nOnly a highlight"), "no article"),
        (lambda: story(0).write_text(""), "no highlight"),
    ],
)
def test_an_unusable_story_is_skipped_and_reported(
    act: Callable[[], object], reason: str, data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    act()
    records, err = show_data(capsys, "cnndm")
    assert [record["id"] for record in records] == URLS[1:]
    assert err.startswith("skipped 1, ") and reason in err and URLS[0] in err and err.count("\n") == 1


COLUMNS = ("article", "highlights", "id")


def make_table(**columns: object) -> dict[str, list]:
    """The made-up stories as columns, one highlight per line.

    columns: replace columns, or remove them if None.
    """
    records = json.loads((FIXTURES / "cnndm" / "expected.json").read_text())
    table = {
        "article": [record["article"] for record in records],
        "highlights": ["\n".join(highlight.strip() for highlight in record["highlights"]) for record in records],
        "id": [record["url"] for record in records],
    } | columns
    return {name: values for name, values in table.items() if values is not None}


def write_parquet(path: str, **columns: object) -> None:
    """Writes the made-up stories as a Parquet file; see `make_table`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(make_table(**columns)), path)


def format_csv(**columns: object) -> str:
    """The made-up stories as a comma-separated table with line breaks in its cells; see `make_table`."""
    table, text = make_table(**columns), io.StringIO()
    csv.writer(text).writerows([list(table), *zip(*table.values(), strict=True)])
    return text.getvalue()


@pytest.mark.parametrize(
    "path", ["train-00000-of-00001.parquet", "plain_text/train/0000.parquet", "3.0.0/train-00000.parquet"]
)
def test_parquet_files_give_the_same_articles_and_highlights(
    path: str, data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree("cnndm")
    write_parquet(f"cnndm/{path}")
    write_parquet(f"cnndm/{path.replace('train', 'validation')}", id=["a", "b", "c"])
    records, err = show_data(capsys, "cnndm")
    expected = json.loads((FIXTURES / "cnndm" / "expected.json").read_text())
    articles = [{"url": r["id"], "article": r["article"], "highlights": r["highlights"]} for r in records]
    assert articles == expected and err == ""
    assert [record["id"] for record in show_data(capsys, "cnndm", "--split=val")[0]] == ["a", "b", "c"]


def test_one_parquet_file_without_ids_is_enough(data_sets: Path, capsys: pytest.CaptureFixture) -> None:
    write_parquet("some.parquet", id=None, highlights=[["One", "Two"], ["Three"], None])
    assert main(["show-data", "--data_loader=cnndm", "--dataset_path=some.parquet", "--json"]) == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["id"], record["highlights"]) for record in records] == [
        ("some.parquet:1", ["\n\nOne\n\n", "\n\nTwo"]),
        ("some.parquet:2", ["\n\nThree"]),
    ]
    assert "skipped 1, article or highlights are missing or not text: some.parquet:3" in err


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_tables_whose_names_tell_no_split_are_named(
    suffix: str, data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree("cnndm")
    for name in ("train", "more", "test"):
        write_parquet(f"cnndm/{name}.parquet")
        Path(f"cnndm/{name}.csv").write_text(format_csv())
    for path in Path("cnndm").glob("*.csv" if suffix == "parquet" else "*.parquet"):
        path.unlink()
    records, err = show_data(capsys, "cnndm")
    assert len(records) == 3 and err == f"cnndm: not read, as no split is in their names: more.{suffix}\n"


def test_parquet_rows_are_counted_before_they_are_read(data_sets: Path) -> None:
    write_parquet("p/train-0.parquet")
    write_parquet("p/train-1.parquet")
    rows = items("p", "train")
    assert len(rows) == 6 == len(list(rows))


@pytest.mark.parametrize("path", ["cnndm/train.csv", "cnndm/plain/train-1.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_csv_files_give_the_same_articles_and_highlights(
    path: str, encoding: str, data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree("cnndm")
    Path(path).parent.mkdir(parents=True)
    text = format_csv()
    assert text.count("\n") > 10  # within the cells
    content = text.encode(encoding)
    Path(path).write_bytes(gzip.compress(content) if path.endswith(".gz") else content)
    Path("cnndm/validation.csv").write_text(format_csv(id=["a", "b", ""]))
    flags = ["--encoding=cp1252"] if encoding == "cp1252" else []
    records, err = show_data(capsys, "cnndm", *flags)
    expected = json.loads((FIXTURES / "cnndm" / "expected.json").read_text())
    articles = [{"url": r["id"], "article": r["article"], "highlights": r["highlights"]} for r in records]
    assert articles == expected and err == ""
    names = [record["id"] for record in show_data(capsys, "cnndm", "--split=val")[0]]
    assert names == ["a", "b", "cnndm/validation.csv:3"]


def test_rows_of_a_csv_with_other_columns_than_its_header_are_skipped(
    data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = ["highlights,article", "Lamps,The lamps were lit", "Boats", "Fog,Fog hung, and rain fell", "Snow,Snow lay"]
    Path("some.csv").write_text("\n".join(rows))
    assert main(["show-data", "--task=cnndm", "--data=some.csv", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["some.csv:1", "some.csv:4"]
    assert err == "skipped 2, article or highlights are missing or not text: some.csv:2, some.csv:3\n"


def test_all_highlights_make_up_one_completion_if_asked(data_sets: Path, capsys: pytest.CaptureFixture) -> None:
    expected = json.loads((FIXTURES / "cnndm" / "expected.json").read_text())
    whole = ["\n".join(highlight.strip() for highlight in record["highlights"]) for record in expected]
    assert any("\n" in completion for completion in whole)
    write_parquet("p/train.parquet")
    Path("c").mkdir()
    Path("c/train.csv").write_text(format_csv())
    for data in ("cnndm", "p", "c"):
        flags = ["--task=cnndm", f"--data={data}", "--highlights=all", "--json"]
        assert main(["show-data", *flags]) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [record["completion"] for record in records] == whole
        assert [record["article"] for record in records] == [record["article"] for record in expected]
    assert main(["show-data", "--task=coqa", "--data=coqa", "--highlights=all"]) == 2
    assert "--highlights all: does not apply to --task coqa: leave it out" in capsys.readouterr().err


ARTICLE = "Fog hung. Rain fell. Snow lay. Dust blew."


def predict(*samples: str, highlights: tuple[str, ...] = ("\n\nFog hung\n\n", "\n\nDust blew")) -> Prediction:
    return Prediction(0, Example("1", ARTICLE, (Turn("\nTL;DR:\n", highlights),)), samples)


def test_a_summary_is_three_sentences_or_all_or_a_sentence_of_each_sample() -> None:
    assert write([predict(ARTICLE)]) == "<t> Fog hung . </t> <t> Rain fell . </t> <t> Snow lay . </t>\n"
    assert write([predict(ARTICLE)], "all").count("<t>") == 4
    samples = "Fog hung.\nRain fell. Snow", "", " Dust\n"
    assert write([predict(*samples)]) == "<t> Fog hung. Rain fell. Snow </t> <t> Dust </t>\n"
    assert write([predict("", "\n")]) == "<t></t>\n"


def test_a_whole_summary_is_scored_against_the_highlights_one_by_one() -> None:
    one, whole = predict("Dust blew. Fog hung."), predict("Dust blew. Fog hung.", highlights=("Fog hung\nDust blew",))
    assert score([one], "", "test", None)["summaries"] == score([whole], "", "test", None, "all")["summaries"]
    assert score([whole], "", "test", None, "all")["summaries"]["rouge-l/f1"]["mean"] == 1
    check([(0, whole.example)], "", "test", None, "all")


@pytest.mark.parametrize("folder", ["test_cnn", "training", "valset", "p [x]"])
def test_the_folder_that_the_user_names_does_not_tell_the_split(folder: str, data_sets: Path) -> None:
    for split, rows in {"train": 3, "validation": 2, "test": 1}.items():
        write_parquet(f"{folder}/{split}-00000-of-00002.parquet", **{name: ["x"] * rows for name in COLUMNS})
        write_parquet(f"{folder}/{split}-00001-of-00002.parquet", **{name: ["y"] * rows for name in COLUMNS})
    assert [len(list(items(folder, split))) for split in ("train", "val", "test")] == [6, 4, 2]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (
            ["1.0.0/train-00000-of-00001", "2.0.0/train-00000-of-00001", "3.0.0/train"],
            "3 times, in 1.0.0, 2.0.0, 3.0.0",
        ),
        (["train", "train-00000-of-00001"], "2 times, in train-00000-of-00001.parquet, train.parquet"),
        (["train-0-of-2", "train-1-of-2", "train-0-of-1"], "2 times"),
        (["a/train/0000", "b/train/0000"], "2 times, in a/train, b/train"),
    ],
)
def test_a_split_that_is_there_twice_is_an_error(
    paths: list[str], names: str, data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in paths:
        write_parquet(f"p/{path}.parquet")
    assert main(["show-data", "--data_loader=cnndm", "--dataset_path=p"]) == 2
    err = capsys.readouterr().err
    assert f"--dataset_path p: train is there {names}" in err and "give one of them" in err and err.count("\n") == 1
    assert len(list(items(f"p/{paths[0]}.parquet", "train"))) == 3


def test_a_story_in_another_encoding_is_refused_or_read_by_its_name(
    data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    story(0).write_bytes("One\r\ncafé\n\n@highlight\n\nx".encode("cp1252"))
    assert main(["show-data", "--data_loader=cnndm", "--dataset_path=cnndm"]) == 2
    err = capsys.readouterr().err
    assert f"{story(0)}: not UTF-8 text at byte 8, line 2 (0xe9): give its --encoding" in err and err.count("\n") == 1
    assert show_data(capsys, "cnndm", "--encoding=cp1252")[0][0]["article"] == "One\ncafé"
    story(0).write_bytes("One\ncafé\n\n@highlight\n\nx".encode("utf-16"))
    assert show_data(capsys, "cnndm")[0][0]["article"] == "One\ncafé"


def write_csv(path: str, text: str) -> None:
    """Writes a table in Latin-1."""
    Path(path).parent.mkdir()
    Path(path).write_text(text, "latin-1")


def truncate(path: str, share: float) -> None:
    os.truncate(path, int(Path(path).stat().st_size * share))


def damage(path: str) -> None:
    """Overwrites data before the footer."""
    content = bytearray(Path(path).read_bytes())
    content[4:200] = bytes(196)
    Path(path).write_bytes(content)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (
            lambda: write_parquet("p/train.parquet", highlights=None),
            ["train.parquet: no column highlights", "article, id"],
        ),
        (lambda: write_parquet("p/train.parquet", article=None, highlights=None), ["no column article, highlights"]),
        (
            lambda: (write_parquet("p/train.parquet"), truncate("p/train.parquet", 0.5)),
            ["train.parquet: not a readable Parquet", "again"],
        ),
        (
            lambda: (write_parquet("p/train.parquet"), truncate("p/train.parquet", 0)),
            ["train.parquet: not a readable Parquet", "again"],
        ),
        (
            lambda: (write_parquet("p/train.parquet"), damage("p/train.parquet")),
            ["train.parquet: damaged after row 0", "again"],
        ),
        (
            lambda: write_parquet("p/train.parquet", article=[], highlights=[], id=[]),
            ["no usable example in train", "empty"],
        ),
        (
            lambda: write_parquet("p/train.parquet", article=[1, 2, 3]),
            ["no usable example in train", "skipped 3", "not text"],
        ),
        (
            lambda: write_parquet("p/train.parquet", article=["", " ", "\n"]),
            ["no usable example in train", "skipped 3, no article"],
        ),
        (lambda: write_parquet("p/test.parquet"), ["p/url_lists/all_train.txt", "tables such as train.parquet"]),
        (
            lambda: (write_parquet("p/train.parquet"), Path("p/train.csv").write_text("")),
            ["p: train is there 2 times, in train.csv, train.parquet"],
        ),
        (
            lambda: write_csv("p/train.csv", "id,article\n"),
            ["train.csv: no column highlights", "article and highlights"],
        ),
        (lambda: write_csv("p/train.csv", ""), ["train.csv: no column article, highlights"]),
        (
            lambda: write_csv("p/train.csv", 'article,highlights\nx,"y\n'),
            ["p/train.csv:2: the row that begins here is not CSV", "close its quote"],
        ),
        (lambda: write_csv("p/train.csv", "article,highlights\ncaf\xe9,x\n"), ["not UTF-8 text at byte 22, line 2"]),
        (lambda: Path("p").write_text("a file"), ["p/url_lists/all_train.txt", "give the folder"]),
        (lambda: Path("p").symlink_to("p"), ["p/url_lists/all_train.txt", "give the folder"]),
    ],
)
def test_a_broken_parquet_file_ends_in_one_line(
    act: Callable[[], object], words: list[str], data_sets: Path, capsys: pytest.CaptureFixture
) -> None:
    act()
    for command in ("show-data", "finetune --model=tiny", "evaluate --split=train --model=models/tiny"):
        if not command.startswith("show"):
            shutil.copytree(OPENAI_TINY, "models/tiny", dirs_exist_ok=True)
        code = main([*command.split(" "), "--data_loader=cnndm", "--dataset_path=p", *fit(command)])
        err = capsys.readouterr().err
        assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
        for word in words:
            assert word in err, (command, err)
    assert not list(Path().rglob("*.partial")) and not Path("output/p_tiny").exists()


def fit(command: str) -> list[str]:
    """Flags that make the run fit the tiny model."""
    if command.startswith("finetune"):
        return ["--length=64"]
    return ["--output_length=10"] if command.startswith("evaluate") else []
