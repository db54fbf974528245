"""Files of JSON lines: which are of a split, what ends a line, and what is wrong with one."""

import gzip
import json
import os
import threading
from pathlib import Path

import pytest

from gpt_tf2.errors import InputError
from gpt_tf2.tasks.json_lines import Line, get_text, list_lines, parse_line
from gpt_tf2.tasks.task import Note


def write(folder: Path, *names: str) -> None:
    """Writes files with one line each, which holds the file's name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": name}) + "\n")


def list_names(path: Path | str, split: str) -> list[str]:
    return [parse_line(line)["text"] for line in list_lines(str(path), split, None) if isinstance(line, Line)]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train.jsonl", "validation.jsonl", "test.jsonl"], [["train.jsonl"], ["validation.jsonl"], ["test.jsonl"]]),
        (["my_train-1.jsonl", "my_train-2.jsonl"], [["my_train-1.jsonl", "my_train-2.jsonl"], None, None]),
        (["train/a.jsonl", "val/b.jsonl", ".hidden/test.jsonl"], [["train/a.jsonl"], ["val/b.jsonl"], None]),
        (["train.jsonl", "dev.jsonl"], [["train.jsonl"], None, ["dev.jsonl"]]),
        (["train.jsonl", "dev.jsonl", "test.jsonl"], [["train.jsonl"], ["dev.jsonl"], ["test.jsonl"]]),
        (["a.jsonl", "b.jsonl", "notes.txt"], [["a.jsonl", "b.jsonl"]] * 3),
        (["my_test_train.jsonl", "my_test_val.jsonl"], [["my_test_train.jsonl"], ["my_test_val.jsonl"], None]),
        (["training.jsonl", "contest.jsonl"], [["training.jsonl"], None, None]),
    ],
)
def test_the_names_of_files_tell_their_splits(files: list[str], splits: list[list[str] | None], tmp_path: Path) -> None:
    write(tmp_path, *files)
    for split, expected in zip(("train", "val", "test"), splits, strict=True):
        if expected is None:
            with pytest.raises(InputError, match=rf"no {split}.jsonl in it, only .*train.*: give one of these"):
                list_lines(str(tmp_path), split, None)
        else:
            assert list_names(tmp_path, split) == expected


def test_files_whose_names_tell_no_split_are_noted_if_others_tell_one(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "part2.jsonl", "more/part3.jsonl", "notes.txt")
    lines = list_lines(str(tmp_path), "train", None)
    note, line = lines
    assert note == Note(f"{tmp_path}: not read, as no split is in their names: more/part3.jsonl, part2.jsonl")
    assert isinstance(line, Line) and line.path == f"{tmp_path}/train.jsonl" and len(lines) == 1
    write(tmp_path, *(f"{number}.jsonl" for number in range(9)))
    (note, _) = list_lines(str(tmp_path), "train", None)
    assert isinstance(note, Note) and note.line.endswith(": 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl, …")


def test_a_file_and_a_glob_are_every_split(tmp_path: Path) -> None:
    write(tmp_path, "train.jsonl", "test.jsonl")
    for split in ("train", "val", "test"):
        assert list_names(tmp_path / "train.jsonl", split) == ["train.jsonl"]
        assert list_names(f"{tmp_path}/*.jsonl", split) == ["test.jsonl", "train.jsonl"]


def test_a_folder_without_jsonl_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text\n")
    with pytest.raises(InputError, match=r"no \.jsonl file in it: give the file, or a folder with train\.jsonl"):
        list_lines(str(tmp_path), "train", None)


def test_only_line_breaks_end_a_line(tmp_path: Path) -> None:
    text = '{"text": "one\u2028two\x0cthree\x85four"}\r\n\r\n  \n{"text": "five"}\r{"text": "six"}'
    for name, content in [
        ("plain.jsonl", text.encode()),
        ("marked.jsonl", text.encode("utf-8-sig")),
        ("wide.jsonl", text.encode("utf-16")),
        ("packed.jsonl.gz", gzip.compress(text.encode())),
    ]:
        (tmp_path / name).write_bytes(content)
        lines = list_lines(str(tmp_path / name), "train", None)
        assert len(lines) == 3
        assert [line.number for line in lines] == [1, 4, 5]
        # A form feed may not stand in JSON as it is.
        assert [line.text.strip()[-6:] for line in lines] == ['four"}', 'five"}', '"six"}']


def test_another_encoding_is_read_when_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes('{"text": "café"}\n'.encode("cp1252"))
    assert [line.text for line in list_lines(str(path), "train", "cp1252")] == ['{"text": "café"}\n']
    with pytest.raises(InputError, match=r"data\.jsonl: not UTF-8 text at byte 13, line 1"):
        list(list_lines(str(path), "train", None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"', r"d\.jsonl:7: not JSON \(.*\): write one object per line"),
        ('{"text": "a"} {}', r"d\.jsonl:7: not JSON \(Extra data at column 15\): write one object per line"),
        ('{"a": 1}]', r"d\.jsonl:7: not JSON \(Extra data at column 9\)"),
        (
            '{"a": 1} ,\n',
            r"d\.jsonl:7: not JSON \(Extra data at column 10\): leave out the comma at the end of the line$",
        ),
        ('{"a": 1,}', r"d\.jsonl:7: not JSON \(.* at column [89]\): write one object per line"),
        ("{'a': 1}", r"d\.jsonl:7: not JSON \(.*double quotes at column 2\): write one object per line"),
        ('"a"', r'd\.jsonl:7: "a" is not an object: write one object per line'),
        ("[", r"d\.jsonl:7: a JSON list: write one object per line, as jq -c '\.\[\]' does"),
        ("[" * 100_000, r"d\.jsonl:7: a JSON list"),
        ('{"a":' * 100_000, r"d\.jsonl:7: not JSON"),
    ],
)
def test_a_line_that_is_no_object_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_line(Line("d.jsonl", 7, text))


def test_a_missing_text_and_one_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match=r'd:7: "prompt" is missing, there is "question", "a": add it, or rename'):
        get_text({"question": "", "a": 1}, "prompt", "d:7")
    with pytest.raises(InputError, match=r'd:7: "prompt" is 3, not text: write a text in quotes'):
        get_text({"prompt": 3}, "prompt", "d:7")


def test_half_a_surrogate_pair_becomes_the_replacement_character() -> None:
    line = Line("d", 1, r'{"text": "a\ud83d b \ud83d\ude00"}')
    assert get_text(parse_line(line), "text", line.name) == "a\ufffd b 😀"


def test_a_stream_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=('{"text": "one"}\n\n{"text": "two"}\n',))
    writer.start()
    assert list_names(path, "train") == ["one", "two"]
    writer.join()
