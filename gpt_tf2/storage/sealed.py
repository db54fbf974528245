"""A checksum at the end of a file. Readers of HDF5 do not see it, because the file says itself where its data ends."""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from gpt_tf2.errors import InputError

MARK = b"\x00gpt_tf2 crc32\x00"
SEAL = struct.Struct(f"<{len(MARK)}sI")
BLOCK = 1 << 22  # bytes read at a time


def seal(path: Path) -> None:
    """Append the CRC-32 of a file to it. Raises OSError if it cannot be written."""
    with path.open("r+b") as file:
        checksum = compute_checksum(file, path.stat().st_size)
        file.write(SEAL.pack(MARK, checksum))


def check_seal(path: Path, fix: str) -> bool:
    """Compare a file with its checksum. Returns whether it has one: an earlier version wrote none.

    Raises InputError, which advises `fix`, if it cannot be read or is damaged.
    """
    try:
        size = path.stat().st_size - SEAL.size
        with path.open("rb") as file:
            file.seek(max(0, size))
            mark, expected = SEAL.unpack(file.read(SEAL.size)) if size > 0 else (b"", 0)
            file.seek(0)
            if mark == MARK and compute_checksum(file, size) != expected:
                raise InputError(f"{path} is damaged (its checksum differs): {fix}")
            return mark == MARK
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): {fix}") from None


def compute_checksum(file: BinaryIO, size: int) -> int:
    """Return the CRC-32 of the next `size` bytes."""
    checksum = 0
    while size > 0 and (block := file.read(min(size, BLOCK))):
        checksum, size = zlib.crc32(block, checksum), size - len(block)
    return checksum
