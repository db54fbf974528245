"""Tables of texts: what is decided of a `.csv`, which column is read, and what is refused."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gpt_tf2 import InputError
from gpt_tf2.tasks.tables import read_table
from gpt_tf2.tasks.task import DEFAULT_READING, Note, Reading


def read(path: Path, reading: Reading = DEFAULT_READING) -> tuple[list[str], str]:
    """The texts of a table, and the note on it."""
    *rows, note = read_table(path, reading)
    assert isinstance(note, Note)
    return [text for _, text in rows], note.line.removeprefix(f"{path}: ")


PROSE = [f"The {n} lanterns burned" for n in range(5)]


@pytest.mark.parametrize(
    ("content", "texts", "note"),
    [
        (
            "text\nA tale\nAnother\n",
            ["A tale", "Another"],
            "1 column, header text: 2 rows of column text used, 0 empty",
        ),
        ("\n".join(PROSE), PROSE, "1 column, no header: 5 rows of column 1 used, 0 empty"),
        ('text\n"one\ntwo"\n"say ""hi"""\n', ["one\ntwo", 'say "hi"'], "1 column, header text: 2 rows"),
        (
            "id,text\n0,The tide\n1,Two\n",
            ["0", "1"],
            "comma-separated, 2 columns, header id, text: 2 rows of column id",
        ),
        (",text\n0,The tide\n", ["0"], "comma-separated, 2 columns, header , text: 1 rows"),
        ("0,The tide\n1,Two\n", ["0", "1"], "comma-separated, 2 columns, no header: 2 rows of column 1"),
        ("Rain fell,pos\nSnow lay,neg\nFog,pos\n", ["Rain fell", "Snow lay", "Fog"], "2 columns, no header: 3 rows"),
        ("text;label\nHello, world;a\nBye, all;b\n", ["Hello, world", "Bye, all"], "semicolon-separated, 2 columns"),
        ("A tale;1,5\nTwo;2,5\n", ["A tale", "Two"], "semicolon-separated, 2 columns, no header"),
        ("text\tlabel\nHello, world\ta\n", ["Hello, world"], "tab-separated, 2 columns, header text, label"),
        ("text|label\nHello, world|a\n", ["Hello, world"], "bar-separated, 2 columns, header text, label"),
        (
            "text\nHello, dear world\nOne, two, three\n",
            ["Hello, dear world", "One, two, three"],
            "1 column, header text",
        ),
        ("Rain, then sun.\nWell, he said, so be it.\n", ["Rain, then sun.", "Well, he said, so be it."], "no header"),
        ('text\n"",x\n,\n   \nreal row\n', ["real row"], "1 rows of column text used, 3 empty, 2 with more cells"),
        (
            "text,label\nHello,dear,a\nBye,b\n",
            ["Hello", "Bye"],
            "2 rows of column text used, 0 empty, 1 with more cells",
        ),
        ("text\r\r\nA tale\r\r\nAnother\r\r\n", ["A tale", "Another"], "2 rows of column text used, 0 empty"),
        ("\ufefftext\rA tale\r", ["A tale"], "header text"),
        ("text\nPage one\ftwo\u2028three\x85four\n", ["Page one\ftwo\u2028three\x85four"], "1 rows"),
        ("Review Text,Stars\nNever again will I sail so late,1\n", ["Never again will I sail so late"], "Review Text"),
        ("", [], "0 rows of column 1 used, 0 empty"),
    ],
)
def test_the_form_of_a_csv_is_found_and_said(content: str, texts: list[str], note: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="utf-8", newline="")
    found, said = read(tmp_path / "a.csv")
    assert found == texts and note in said


@pytest.mark.parametrize("column", ["text", "2"])
@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.jsonl", "a.parquet", "a.csv.gz"])
def test_a_column_is_chosen_by_name_or_number(column: str, name: str, tmp_path: Path) -> None:
    path, rows = tmp_path / name, [{"id": "x", "text": "The tide"}, {"id": "y", "text": "Two"}]
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = "\n".join(
            ("\t" if "TSV" in name else ",").join(row) for row in [("id", "text"), *map(dict.values, rows)]
        )
        path.write_bytes(gzip.compress(lines.encode()) if name.endswith("gz") else lines.encode())
    texts, note = read(path, Reading(column=column))
    assert texts == ["The tide", "Two"] and "2 rows of column text used" in note
    for missing in ("title", "3", "0"):
        with pytest.raises(InputError, match=f"column={missing}: not in .*{name}, whose columns are id, text"):
            read(path, Reading(column=missing))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text\n"An open quote\nrow two\nrow three\n', 2),
        ('text\nfirst\n"An open quote\nrow "two"\nrow three\n', 3),
        ('a,b\n1,2\n3,"4" 5\n', 3),
        ('"open', 1),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_quote_that_is_not_closed_is_an_error_with_its_line(
    content: str, line: int, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(content if suffix == ".csv" else content.replace(",", "\t"))
    with pytest.raises(InputError, match=rf"a{suffix}:{line}: the row that begins here is not CSV .*close its quote"):
        read(path)


def test_the_lines_of_a_jsonl_are_objects_or_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"id": "1", "text": "The\u2028tide"}\n\n{"text": ""}\n{"id": "2"}\n"A text"\n7\n', encoding="utf-8"
    )
    assert read(path) == (["The\u2028tide", "A text"], "2 rows of column text used, 3 empty")
    path.write_text('{"story": "A tale", "other": "x"}\n')
    assert read(path) == (["A tale"], "1 rows of column story used, 0 empty")


@pytest.mark.parametrize("line", ["{", '{"text": "a"} x', "9" * 5000, "[" * 100_000, '{"a": NaN'])
def test_a_line_that_is_no_json_is_an_error_with_its_number(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "ok"}\n' + line)
    with pytest.raises(InputError, match=r"a.jsonl:2: not JSON .*one value per line") as caught:
        read(tmp_path / "a.jsonl")
    assert len(caught.value.message) < 200


def test_the_first_column_of_text_of_a_parquet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = {"n": [1, 2, 3], "story": pyarrow.array(["One", None, " "]).dictionary_encode(), "z": ["a", "b", "c"]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert read(path) == (["One"], "1 rows of column story used, 2 empty")
    pyarrow.parquet.write_table(pyarrow.table({"n": [1]}), path)
    with pytest.raises(InputError, match="no column of text"):
        read(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"a.parquet: not a readable Parquet file"):
        read(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "a", "completion": "b"},
            r"looks like pairs \(prompt, completion\): give task jsonl, or name the",
        ),
        ({"instruction": "a", "output": "b"}, r"looks like pairs \(instruction, output\): give task jsonl"),
        ({"messages": []}, r"looks like chats \(messages\): give task jsonl, or name the text's column"),
        ({"id": "a", "conversations": []}, r"looks like chats \(conversations\)"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            r"looks like preferences .*: give task preferences, to train with objective dpo, or name",
        ),
    ],
)
def test_pairs_chats_and_preferences_are_not_read_as_one_column(row: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match=message):
        read(path)
    path.write_text(json.dumps(row | {"text": "A tale"}))
    assert read(path)[0] == ["A tale"]


def test_pairs_in_other_tables_are_not_read_as_one_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\nOne,Two\nThree,Four\n")
    message = r"looks like pairs .*: write it as JSON lines and give task jsonl, or name the text's column"
    with pytest.raises(InputError, match=message):
        read(path)
    assert read(path, Reading(column="completion"))[0] == ["Two", "Four"]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["One"], "completion": ["Two"]}), path)
    with pytest.raises(InputError, match=message):
        read(path)
    assert read(path, Reading(column="prompt"))[0] == ["One"]
    pyarrow.parquet.write_table(pyarrow.table({"messages": [[{"role": "user", "content": "Hi"}]]}), path)
    with pytest.raises(InputError, match="looks like chats"):
        read(path)
