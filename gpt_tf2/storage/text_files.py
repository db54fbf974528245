"""Read text from files: compressed or not, in UTF-8, with a byte order mark, or in an encoding that the user names."""

import bz2
import codecs
import contextlib
import gzip
import io
import itertools
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpt_tf2.errors import InputError
from gpt_tf2.storage.damage import check_expansion

STDIN = "-"
BLOCK = 1 << 20  # bytes read at a time
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# The longer ones first: the mark of UTF-32 begins like that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
UTF8_FIX = "write it again as UTF-8"
ENCODING_FIX = "give its `encoding`, such as cp1252, or write it again as UTF-8"  # where there is that setting


def read_text(
    path: str | Path,
    encoding: str | None = None,
    fix: str = "check the path",
    encoding_fix: str = UTF8_FIX,
) -> str:
    """Read a text file, with line breaks as `\\n` and without a byte order mark.

    Args:
        path: the file; `-` is stdin.
        encoding: of a file without a byte order mark; by default UTF-8.
        fix: what the error advises if the file cannot be read.
        encoding_fix: what the error advises if the bytes are not text in that encoding.

    Raises InputError, naming the file, the line and the byte, if the file cannot be read or decoded.

    Example:
        >>> read_text("prompts.txt", "cp1252")  # doctest: +SKIP
        'Le café\\n'
    """
    return "".join(decode(read_blocks(path, fix), path, encoding, encoding_fix))


def read_lines(path: str | Path, encoding: str | None = None, encoding_fix: str = UTF8_FIX) -> list[str]:
    """Read the lines of a text file, without their line breaks; see `read_text`.

    Only `\\n`, `\\r\\n` and `\\r` end a line: a form feed or U+2028 does not.
    """
    text = read_text(path, encoding, encoding_fix=encoding_fix)
    return text.removesuffix("\n").split("\n") if text else []


def read_blocks(path: str | Path, fix: str = "check the path") -> Iterator[bytes]:
    """Yield the bytes of a file block by block, decompressed if its name says that it is compressed.

    Raises InputError if it cannot be read, or unpacks to far more bytes than it has.
    """
    packed, size = Path(path).suffix.lower() in COMPRESSED and Path(path).is_file(), 0
    try:
        with open_bytes(Path(path)) as file:
            while block := file.read(BLOCK):
                size += len(block)
                if packed:
                    check_expansion(Path(path), size, "unpack it, and give what was in it")
                yield block
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged ({error}): write it again") from None
    except OSError as error:
        if error.strerror is None:  # bz2's and zstandard's own, of which the system knows nothing
            raise InputError(f"{path}: damaged ({error}): write it again") from None
        raise InputError(f"{path}: cannot be read ({error.strerror}): {fix}") from None


def open_bytes(path: Path) -> contextlib.AbstractContextManager[Any]:
    """Open a file for its decompressed bytes. `-` is stdin, which stays open."""
    if str(path) == STDIN:
        return contextlib.nullcontext(sys.stdin.buffer) if sys.stdin else Path("/dev/stdin").open("rb")  # it is closed
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path)
        case ".bz2":
            return bz2.open(path)
        case ".xz":
            return lzma.open(path)
        case ".zst":
            import pyarrow

            return pyarrow.CompressedInputStream(path.open("rb"), "zstd")
    return path.open("rb")


def plain_suffix(path: Path) -> str:
    """The suffix of a file in small letters, without that of its compression."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def decode(
    blocks: Iterable[bytes], name: str | Path, encoding: str | None = None, encoding_fix: str = UTF8_FIX
) -> Iterator[str]:
    """Yield the text of blocks of bytes, with line breaks as `\\n` and without a byte order mark.

    Args:
        name: of the file, for the error.
        encoding: of bytes that do not begin with a byte order mark; by default UTF-8.
        encoding_fix: what the error advises.

    Raises InputError, naming the line and the byte, where the bytes are not text in that encoding.
    """
    blocks = iter(blocks)
    first = next(blocks, b"")
    mark = next((mark for mark in MARKS if first.startswith(mark)), b"")
    codec = MARKS.get(mark) or encoding or "utf-8"
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(codec)(), translate=True)
    size, line, is_first = 0, 1, True
    try:
        for block in itertools.chain([first], blocks, [b""]):
            size += len(block)
            text = decoder.decode(block, final=not block)
            line += text.count("\n")
            if text:
                yield text.removeprefix("\ufeff") if is_first else text
                is_first = False
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(codec, "ignore")
        line += before.replace("\r\n", "\n").replace("\r", "\n").count("\n")
        byte = size - len(error.object) + error.start
        place = f"byte {byte}, line {line} (0x{error.object[error.start]:02x})"
        raise InputError(f"{name}: not {codec.upper()} text at {place}: {encoding_fix}") from None
    except UnicodeError as error:  # utf-16 without a byte order mark
        raise InputError(f"{name}: not {codec.upper()} text ({error}): {encoding_fix}") from None


def check_encoding(encoding: str | None) -> None:
    """Raises InputError for a name that is not an encoding of text."""
    try:
        b"\0\0\0\0".decode(encoding or "utf-8", "replace")
    except (LookupError, ValueError):
        raise InputError(
            "no such encoding: use a name such as cp1252, gbk or utf-16-le", "encoding", encoding
        ) from None
