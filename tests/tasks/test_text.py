"""The task `text`: files, folders, globs, arrays and columns, and where streams end."""

import gzip
import io
import os
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_tf2 import InputError, Tokenizer
from gpt_tf2.data.dataset import Source, open_training_data
from gpt_tf2.data.encoding import read_streams
from gpt_tf2.data.prepared import prepare
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import Reading
from gpt_tf2.tasks.text import cut_text
from helpers.workplace import OPENAI_TINY

TOKENIZER = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
END = TOKENIZER.end_of_text
TEXT = find_task("text")
SILENT: Any = SimpleNamespace(show=lambda done, total: None, say=lambda text: None)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def read(path: Path | str) -> list[list[int]]:
    return [stream.tolist() for stream in read_streams(TEXT.running_text, str(path), TOKENIZER, Skipped())]


def test_a_file_is_read_as_utf_8_with_line_feeds(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes("Quiet harbour.\r\nTwo\rboats.\né".encode())
    assert read(tmp_path / "a.md") == [ids("Quiet harbour.\nTwo\nboats.\né")]


def test_the_files_of_a_folder_are_joined_by_end_of_text(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b" / "c" / "x").write_text("Two.")
    (tmp_path / "b" / "z.txt").write_text("Three.")
    expected = [*ids("One."), END, *ids("Two."), END, *ids("Three.")]
    assert read(tmp_path) == [expected]
    assert expected.count(END) == 2
    assert read(tmp_path / "b" / "*.txt") == [ids("Three.")]
    assert read(tmp_path / "**" / "*.txt") == [[*ids("One."), END, *ids("Three.")]]


def test_the_rows_of_a_csv_end_with_end_of_text(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,other\n"A tale,\nin two lines",1\n\nAnother,2\n')
    line_break = ids("\n")
    first, second = ids("<|startoftext|>A tale,\nin two lines"), ids("<|startoftext|>Another")
    assert read(tmp_path / "rows.csv") == [[*first, END, *line_break, *second, END, *line_break]]


@given(st.text(st.sampled_from("ab1 \n\r\t'.é\u3000北\x1c\xa0"), min_size=20, max_size=120))
@settings(max_examples=300, deadline=None)
def test_parts_have_the_tokens_of_the_whole(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_tf2.tasks.text.PART", 16)
        patch.setattr("gpt_tf2.storage.text_files.BLOCK", 7)
        path = Path(folder) / "a.txt"
        path.write_bytes(text.encode() + b"\nend")
        streams = read(path)
    assert streams == [ids((text + "\nend").replace("\r\n", "\n").replace("\r", "\n"))]


@pytest.mark.parametrize("size", [1, 7, 1000, 5000])
def test_a_long_text_is_cut_before_line_breaks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_tf2.tasks.text.PART", 1000)
    text = "A quiet harbour.\n" * 400
    parts = list(cut_text(text[start : start + size] for start in range(0, len(text), size)))
    assert "".join(parts) == text
    assert all(part.startswith("\n") for part in parts[1:])
    if size <= 1000:
        assert all(len(part) < 2000 for part in parts) and len(parts) > 3
    assert list(cut_text(["word " * 400] * 3)) == ["word " * 1200]


def test_prepared_streams_equal_those_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_tf2.tasks.text.PART", 1000)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("A quiet harbour. Two boats.\n" * 300)
    (tmp_path / "c.csv").write_text("text\n" + "A row\n" * 1500)
    np.savez(tmp_path / "d.npz", one=np.arange(5), two=np.arange(7))
    plain = read(tmp_path)
    shown: list[int] = []
    for _ in range(2):
        tokens = prepare(TEXT, str(tmp_path), "train", TOKENIZER, None, lambda done, _: shown.append(done), pytest.fail)
        assert [stream.tolist() for stream in tokens.streams()] == plain
        assert len(shown) == shown[-1] == 9 + 9 + 2 + 2  # and not again
    assert read(tmp_path) == plain  # the prepared tokens beside the text are not part of it
    glob = prepare(TEXT, str(tmp_path / "**" / "*.txt"), "train", TOKENIZER, None, lambda done, _: None, pytest.fail)
    assert [stream.tolist() for stream in glob.streams()] == read(tmp_path / "**" / "*.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gpt_tf2", "a.txt", "b.txt", "c.csv", "d.npz"]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut", np.arange(5).tobytes()])
def test_a_file_that_is_not_an_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"not an .npz of arrays"):
        read(tmp_path / "a.npz")


def test_an_npy_called_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"not an .npz of arrays"):
        read(tmp_path / "a.npz")


def test_a_text_before_a_csv_ends_with_end_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b.csv").write_text("text\nRow\n")
    (tmp_path / "c.txt").write_text("Two.")
    row = [*ids("<|startoftext|>Row"), END, *ids("\n")]
    assert read(tmp_path) == [[*ids("One."), END, *row, *ids("Two.")]]


def test_each_array_is_its_own_stream(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", one=np.arange(5, dtype="uint16"), two=np.arange(7))
    (tmp_path / "a.txt").write_text("One.")
    assert read(tmp_path) == [ids("One."), list(range(5)), list(range(7))]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([0, 512]), "0 to 512"),
        (np.array([-1, 3]), "-1 to 3"),
        (np.array([0.5]), "float64"),
        (np.zeros((2, 2), int), r"\[2, 2\]"),
        (np.array([{}], dtype=object), "object"),
    ],
)
def test_arrays_that_are_not_tokens_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "bad.npz", ids=array)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "bad.npz")


def read_with_notes(path: Path | str, **reading: Any) -> tuple[list[list[int]], list[str]]:
    """The streams, and the lines on what was read and skipped."""
    skipped = Skipped()
    task = find_task("text", Reading(**reading))
    streams = read_streams(task.running_text, str(path), TOKENIZER, skipped)
    return [stream.tolist() for stream in streams], skipped.lines()


def test_the_end_of_text_in_a_text_is_the_token_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.<|endoftext|>\nTwo.<|endoftext|>")
    (tmp_path / "b.csv").write_text("text\nA<|endoftext|>B\n")
    start, line_break = ids("<|startoftext|>A"), ids("\n")
    text = [*ids("One."), END, *ids("\nTwo."), END]
    streams, notes = read_with_notes(tmp_path)
    assert streams == [[*text, END, *start, END, *ids("B"), END, *line_break]]
    assert notes[-1] == f"{tmp_path}: 3 <|endoftext|> in it, read as the end-of-text token"
    streams, notes = read_with_notes(tmp_path / "a.txt", literal_specials=True)
    assert (
        streams == [ids("One.<|endoftext|>\nTwo.<|endoftext|>")]
        and "2 <|endoftext|> in it, read as letters" in notes[0]
    )
    shown: list[str] = []
    tokens = prepare(TEXT, str(tmp_path), "train", TOKENIZER, None, lambda *_: shown.append(""), pytest.fail)
    literal = find_task("text", Reading(literal_specials=True))
    again = prepare(literal, str(tmp_path), "train", TOKENIZER, None, lambda *_: shown.append(""), pytest.fail)
    assert "3 <|endoftext|> in it" in tokens.skipped[-1] and tokens.key != again.key
    assert again.streams()[0].tolist().count(END) == 2


def test_what_is_no_text_in_a_folder_is_skipped_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / ".data"  # the user's own choice, so not hidden
    files = {
        "a.txt": b"One.",
        "b.txt.gz": gzip.compress(b"Two."),
        ".DS_Store": b"\0\0\0\1Bud1",
        "._a.txt": b"\0\5\x16\7",
        ".git/config": b"[core]",
        ".git/objects/x": b"x",
        "c.docx": b"PK\3\4\x14\0",
        "d.png": b"\x89PNG\r\n\x1a\n",
        "e.pdf": b"%PDF-1.7 text",
        "f.tar.gz": gzip.compress(b"name" + bytes(600)),
        "g": bytes(range(1, 250)),
        "h.rtf": rb"{\rtf1 One}",
        "sub/i.txt": "Three.".encode("utf-16"),
        "sub/.hidden.txt": b"Hidden.",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "j.txt")
    (folder / "k.txt").symlink_to("nothing")
    streams, notes = read_with_notes(folder)
    assert streams == [[*ids("One."), END, *ids("Two."), END, *ids("Three.")]]
    hidden, binary, others = notes
    assert others == f"skipped 2, pipe, device or broken link: {folder}/j.txt, {folder}/k.txt"
    assert hidden == f"skipped 4, hidden file or folder: {folder}/.DS_Store, {folder}/._a.txt, {folder}/.git, …"
    assert binary == f"skipped 6, binary file or archive: {folder}/c.docx, {folder}/d.png, {folder}/e.pdf, …"
    assert read(folder / "sub" / ".hidden.txt") == [ids("Hidden.")]
    for name in ("a.txt", "b.txt.gz", "sub/i.txt"):
        (folder / name).unlink()
    with pytest.raises(
        InputError, match=r"no text in it \(skipped 4, hidden .*: give a file, folder or glob with text"
    ):
        read(folder)


@pytest.mark.parametrize(
    "content", [b"%PDF-1.7", "No mark".encode("utf-16-le"), gzip.compress(b"x", mtime=0), b"\1\2\3\4text", bytes(9)]
)
def test_a_binary_file_that_is_named_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a.txt: a binary file or archive: save it as plain text"):
        read(tmp_path / "a.txt")


def test_a_json_array_is_refused_where_it_is_named(tmp_path: Path) -> None:
    path, text = tmp_path / "a.json", '\n[{"text": "A tale"}]'
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text(text, encoding=encoding)
        for data in (path, tmp_path / "*.json"):
            with pytest.raises(
                InputError, match=r"a JSON array .*: write one value per line to a \.jsonl, as jq"
            ) as error:
                read(data)
            assert error.value.value == path
    assert read(tmp_path) == [ids(text)]  # a folder of code, say
    path.write_text('{"text": ["A tale"]}')
    assert read(path) == [ids(path.read_text())]


def test_json_lines_with_the_wrong_ending_are_refused_where_they_are_named(tmp_path: Path) -> None:
    path, text = tmp_path / "a.json", '\n{"text": "A tale"}\n\n{"text": "Row'
    for encoding in ("utf-8", "utf-16"):
        path.write_text(f'{text} two"}}\n', encoding=encoding)
        with pytest.raises(InputError, match=r"JSON lines \(name it .*: give task jsonl for pairs") as error:
            read(path)
        assert error.value.value == path
        assert len(read(tmp_path)) == 1
    path.write_text(text)  # a broken second line
    assert read(path) == [ids(text)]


def test_other_encodings_are_read_by_name_and_broken_text_is_refused(tmp_path: Path) -> None:
    for name, content in {"a.txt": "Déjà\r\nvu", "b.csv": "text\nDéjà"}.items():
        (tmp_path / name).write_bytes(content.encode("cp1252"))
        with pytest.raises(InputError, match=f"{name}: not UTF-8 text at byte .*give its encoding, such as cp1252"):
            read(tmp_path / name)
    texts = [*ids("Déjà\nvu"), END, *ids("<|startoftext|>Déjà"), END, *ids("\n")]
    assert read_with_notes(tmp_path, encoding="cp1252")[0] == [texts]
    (tmp_path / "a.txt").write_bytes("Ünder".encode("utf-16-le"))
    assert read_with_notes(tmp_path / "a.txt", encoding="utf-16-le")[0] == [ids("Ünder")]


def test_a_note_says_how_a_table_was_read(tmp_path: Path) -> None:
    (tmp_path / "a.CSV").write_text("id;text\n1;Row\n2;\n")
    streams, notes = read_with_notes(tmp_path / "a.CSV", column="text")
    assert streams == [[*ids("<|startoftext|>Row"), END, *ids("\n")]]
    assert notes == [
        f"{tmp_path}/a.CSV: semicolon-separated, 2 columns, header id, text: 1 rows of column text used, 1 empty"
    ]


def test_a_pipe_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    source = Source(TEXT, str(tmp_path / "pipe"), TOKENIZER, cache=str(tmp_path / "cache"))
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("A quiet harbour. " * 9,))
    writer.start()
    data = open_training_data(source, 8, 0.0, False, SILENT)
    writer.join()
    assert data.report == [f"{tmp_path}/pipe: {len(ids('A quiet harbour. ' * 9))} tokens"]
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"From stdin.")))
    assert read("-") == [ids("From stdin.")]


@pytest.mark.parametrize(
    ("loader", "reading", "setting"),
    [("cnndm", {"column": "x"}, "column=x"), ("coqa", {"literal_specials": True}, "literal_specials=")],
)
def test_a_way_of_reading_that_does_not_apply_is_an_error(loader: str, reading: dict, setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting}: does not apply to task {loader}: leave it out"):
        find_task(loader, Reading(**reading))
