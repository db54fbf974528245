"""Text files: their encodings, their line ends, compressed ones, and the place of bytes that are no text."""

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow
import pytest

from gpt_tf2 import InputError
from gpt_tf2.storage import damage, text_files
from gpt_tf2.storage.text_files import check_encoding, read_blocks, read_lines, read_text

TEXT = "Le café 日本 📚\nsecond line\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [4, 5, 1 << 20])
def test_a_byte_order_mark_tells_the_encoding_and_is_no_text(
    encoding: str, line_end: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK", block)
    (tmp_path / "a.txt").write_bytes(TEXT.replace("\n", line_end).encode(encoding))
    assert read_text(tmp_path / "a.txt") == TEXT
    assert read_text(tmp_path / "a.txt", None if encoding == "utf-8" else "cp1252") == TEXT


@pytest.mark.parametrize("mark", ["utf-16-be", "utf-32-be"])
def test_big_endian_text_is_read(mark: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("\ufeff" + TEXT).encode(mark))
    assert read_text(tmp_path / "a.txt") == TEXT


@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "utf-16-le", "shift_jis"])
def test_another_encoding_is_read_by_its_name(encoding: str, tmp_path: Path) -> None:
    text = {"cp1252": "déjà “vu”", "gbk": "日本书", "utf-16-le": TEXT, "shift_jis": "日本"}[encoding]
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "a.txt", encoding) == text


@pytest.mark.parametrize("block", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize(
    ("content", "encoding", "place"),
    [
        (b"caf\xe9\n", None, "not UTF-8 text at byte 3, line 1 (0xe9)"),
        (b"one\r\ntwo\rthree\nna\xefve", None, "not UTF-8 text at byte 17, line 4 (0xef)"),
        ("é日\n".encode() * 3 + b"\xff", None, "not UTF-8 text at byte 18, line 4 (0xff)"),
        (b"cut \xe6\x97", None, "not UTF-8 text at byte 4, line 1 (0xe6)"),
        (b"a\n\x81", "cp1252", "not CP1252 text at byte 2, line 2 (0x81)"),
        (b"\xff\xfea\0\n\0b", None, "not UTF-16-LE text at byte 6, line 2 (0x62)"),
        (b"a\0", "utf-16", "not UTF-16 text (UTF-16 stream does not start with BOM)"),
    ],
)
def test_bytes_that_are_no_text_are_refused_with_their_place(
    content: bytes, encoding: str | None, place: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK", max(block, 2 if content.startswith(b"\xff") else 1))
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_text(tmp_path / "a.txt", encoding)
    assert place in str(caught.value) and "a.txt: not" in str(caught.value)


def write_zst(path: Path, content: bytes) -> None:
    with pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), "zstd") as file:
        file.write(content)


WRITERS: dict[str, Callable[[Path, bytes], object]] = {
    ".gz": lambda path, content: path.write_bytes(gzip.compress(content)),
    ".bz2": lambda path, content: path.write_bytes(bz2.compress(content)),
    ".XZ": lambda path, content: path.write_bytes(lzma.compress(content)),
    ".zst": write_zst,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_compressed_file_is_read_as_its_text(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.txt{suffix}"
    WRITERS[suffix](path, TEXT.encode())
    assert read_text(path) == TEXT
    content = path.read_bytes()
    for damaged in (content[:-6], b"no" + content[2:], b"plain text"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged \(.*write it again"):
            read_text(path)
    with pytest.raises(InputError, match=r"No such file"):
        read_text(tmp_path / f"no.txt{suffix}")


def test_a_compressed_pipe_is_read_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "MOST_BYTES", 0)  # a pipe has no size to compare with
    path = tmp_path / "pipe.txt.gz"
    os.mkfifo(path)
    with ThreadPoolExecutor() as threads:
        threads.submit(path.write_bytes, gzip.compress(TEXT.encode()))
        assert read_text(path) == TEXT


def test_only_line_feeds_and_carriage_returns_end_a_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("one\ftwo\x0b\x1c\x85\u2028\u2029 \r\nthree\rfour\n\n".encode())
    assert read_lines(tmp_path / "a") == ["one\ftwo\x0b\x1c\x85\u2028\u2029 ", "three", "four", ""]
    (tmp_path / "a").write_bytes(b"")
    assert read_lines(tmp_path / "a") == []


@pytest.mark.parametrize("encoding", ["nope", "rot13", "base64", "undefined", "a\0b"])
def test_an_unknown_encoding_is_an_error(encoding: str) -> None:
    with pytest.raises(InputError, match="no such encoding: use a name such as cp1252"):
        check_encoding(encoding)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = tmp_path / f"a{suffix}", b"tide " * 500_000
    WRITERS[suffix](path, content)
    assert b"".join(read_blocks(path)) == content
    monkeypatch.setattr(damage, "MOST_BYTES", 1 << 20)
    blocks = read_blocks(path)
    assert len(next(blocks)) <= 1 << 20
    with pytest.raises(InputError, match=r"bytes of data in a file of .*: unpack it"):
        next(blocks)
