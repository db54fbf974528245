"""Reading text: files, folders, globs, arrays and columns, and where one ends."""

from pathlib import Path

import numpy as np
import pytest
from conftest import OPENAI_TINY

from gpt_tf2 import InputError, Tokenizer
from gpt_tf2.tasks.text import read_streams

TOKENIZER = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
END = TOKENIZER.end_of_text


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def read(path: Path | str) -> list[list[int]]:
    return [stream.tolist() for stream in read_streams(str(path), TOKENIZER)]


def test_one_file_is_its_tokens(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"Quiet harbour.\r\nTwo boats.\n" + b"\xff\xfe" + "é".encode())
    assert read(tmp_path / "a.md") == [ids("Quiet harbour.\nTwo boats.\né")]


def test_a_folder_is_walked_and_joined_with_the_token(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b" / "c" / "x").write_text("Two.<|endoftext|>")
    (tmp_path / "b" / "z.txt").write_text("Three.")
    expected = [*ids("One."), END, *ids("Two.<|endoftext|>"), END, *ids("Three.")]
    assert read(tmp_path) == [expected]
    assert expected.count(END) == 2
    assert read(tmp_path / "b" / "*.txt") == [ids("Three.")]
    assert read(tmp_path / "**" / "*.txt") == [[*ids("One."), END, *ids("Three.")]]


def test_rows_of_a_csv_end_with_the_token(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,other\n"A tale,\nin two lines",1\n\nAnother,2\n')
    line_break = ids("\n")
    first, second = ids("<|startoftext|>A tale,\nin two lines"), ids("<|startoftext|>Another")
    assert read(tmp_path / "rows.csv") == [[*first, END, *line_break, *second, END, *line_break]]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut", np.arange(5).tobytes()])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"not an .npz of arrays"):
        read(tmp_path / "a.npz")


def test_an_npy_called_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"not an .npz of arrays"):
        read(tmp_path / "a.npz")


def test_a_text_before_a_csv_ends_first(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b.csv").write_text("text\nRow\n")
    (tmp_path / "c.txt").write_text("Two.")
    row = [*ids("<|startoftext|>Row"), END, *ids("\n")]
    assert read(tmp_path) == [[*ids("One."), END, *row, *ids("Two.")]]


def test_arrays_are_streams_of_their_own(tmp_path: Path) -> None:
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
def test_arrays_that_are_no_tokens_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "bad.npz", ids=array)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "bad.npz")
