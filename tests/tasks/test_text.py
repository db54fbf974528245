"""The task `text`: files, folders, globs, arrays and columns, and where streams end."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_tf2 import InputError, Tokenizer
from gpt_tf2.data.encoding import read_streams
from gpt_tf2.data.prepared import prepare
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.text import cut_text
from helpers.workplace import OPENAI_TINY

TOKENIZER = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
END = TOKENIZER.end_of_text
TEXT = find_task("text")


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
        (np.array([{}], dtype=object), "not an .npz of arrays"),
    ],
)
def test_arrays_that_are_not_tokens_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "bad.npz", ids=array)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "bad.npz")
