"""The reader of JSON: whatever a file holds, the error is one line."""

import codecs
from pathlib import Path

import pytest

from gpt_tf2 import InputError
from gpt_tf2.storage.json_text import parse_json, read_json

TEXT = '{"tide": ["é", 1, null]}'


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
    ],
)
def test_every_encoding_of_unicode_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {"tide": ["é", 1, None]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a.json:1: not JSON"),
        (b'{\n"a": }', "a.json:2: not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
        (b'"\xff"', "not utf-8 text at byte 1"),
        (b"\xed\xa0\x80", "not utf-8 text at byte 0"),
        (b'"\xff\xff\xff', "a.json: not"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_json(tmp_path / "a.json")


def test_errors_in_one_line_of_a_file_have_its_number() -> None:
    for content in (b"{", b"[" * 100_000, b"9" * 5000, b'"\xff"'):
        with pytest.raises(InputError, match=r"^a.jsonl:7: not .*: copy it again$"):
            parse_json(content, "a.jsonl", "copy it again", 7)


def test_errors_name_the_source_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^m.h5: hparams:1: not JSON \(.*\): copy it again$"):
        parse_json("{", "m.h5: hparams", "copy it again")
    with pytest.raises(InputError, match=r"a.json: cannot be read .*: check the path$"):
        read_json(tmp_path / "a.json")
