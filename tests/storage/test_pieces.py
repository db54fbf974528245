"""A text written piece by piece: what is in the file when, and two that write it at once."""

import os
import threading
from pathlib import Path

import pytest

from gpt_tf2.errors import InputError
from gpt_tf2.storage.pieces import write_pieces


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pieces_are_in_the_file_as_soon_as_they_are_made() -> None:
    Path("file").write_text("what an earlier run wrote, which is longer")
    with write_pieces("file", "output") as write:
        assert Path("file").read_text().startswith("what")
        for piece in ("one\n", "two ä\n", "lone \ud800\n"):
            write(piece)
            assert Path("file").read_text().endswith(piece.replace("\ud800", "\\ud800"))
    assert Path("file").read_text() == "one\ntwo ä\nlone \\ud800\n"


def test_without_a_piece_the_file_is_as_it_was() -> None:
    Path("old").write_text("old")
    for path in ("old", "new/file"):
        with pytest.raises(InputError), write_pieces(path, "output"):
            raise InputError("bad input")
    assert Path("old").read_text() == "old" and not Path("new/file").exists()


def test_two_that_write_pieces_to_a_file_never_mix() -> None:
    with write_pieces("file", "output") as write:
        write("one\n")
        message = "output=file: another process is writing it: wait for its end, or choose another"
        with pytest.raises(InputError, match=message), write_pieces("file", "output"):
            pytest.fail("both write")
        write("two\n")
    assert Path("file").read_text() == "one\ntwo\n"


def test_pieces_go_through_a_fifo() -> None:
    os.mkfifo("fifo")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("fifo").read_text()))
    reader.start()
    with write_pieces("fifo", "output") as write:
        write("one\n")
        write("two\n")
    reader.join(10)
    assert read == ["one\ntwo\n"]


def test_a_full_disk_leaves_whole_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    write_some = os.write

    def fill(descriptor: int, content: bytes) -> int:
        if bytes(content).startswith(b"two"):
            return write_some(descriptor, content[:2])
        if bytes(content).startswith(b"o\n"):
            raise OSError(28, "No space left on device")
        return write_some(descriptor, content)

    monkeypatch.setattr(os, "write", fill)
    message = r"output=file: cannot be written \(No space left on device\): free space, or choose another"
    with pytest.raises(InputError, match=message), write_pieces("file", "output") as write:
        write("one\n")
        write("two\n")
    assert Path("file").read_text() == "one\n"


def test_a_folder_is_an_error_before_the_work() -> None:
    Path("new").mkdir()
    with pytest.raises(InputError, match="output=new: is a folder"), write_pieces("new", "output"):
        pytest.fail("the work began")
    Path("file").touch()
    with pytest.raises(InputError, match="cannot be written"), write_pieces("file/below", "output"):
        pytest.fail("the work began")
