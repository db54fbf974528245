"""CRC-32C (Castagnoli et al. 1993), the checksum in TensorFlow's checkpoints. zlib has another one of that size."""

import functools
import itertools

import numpy as np

from gpt_tf2.backend.numba_kernels import compile_kernel

POLYNOMIAL = 0x82F63B78  # its bits in reverse
ONES = 0xFFFFFFFF
BYTE, LAST, BYTE_BITS = np.uint64(255), np.uint64(56), np.uint64(8)


def crc32c(content: np.ndarray) -> int:
    """The checksum of bytes, uint8 [N].

    Example:
        >>> hex(crc32c(np.frombuffer(b"123456789", "uint8")))
        '0xe3069283'
    """
    words, tables = len(content) // 8, make_tables()
    checksum = int(add_words(content[: 8 * words].view("<u8"), tables))
    for byte in content[8 * words :].tolist():
        checksum = checksum >> 8 ^ int(tables[0, (checksum ^ byte) & 255])
    return checksum ^ ONES


@functools.cache
def make_tables() -> np.ndarray:
    """For each byte what it adds to the checksum when 0 to 7 bytes follow it, uint64 [8, 256]."""
    tables = np.zeros((8, 256), "uint64")
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        tables[0, byte] = value
    for earlier, later in itertools.pairwise(tables):
        later[:] = earlier >> BYTE_BITS ^ tables[0][earlier & BYTE]
    return tables


@compile_kernel
def add_words(words: np.ndarray, tables: np.ndarray) -> np.uint64:
    """The checksum, without its last inversion, of words of eight bytes, uint64 [N] (Kounavis and Berry 2005)."""
    checksum = np.uint64(ONES)
    for i in range(len(words)):
        x = words[i] ^ checksum
        checksum = tables[0, x >> LAST]
        for k in range(7):
            checksum ^= tables[7 - k, x >> np.uint64(8 * k) & BYTE]
    return checksum
