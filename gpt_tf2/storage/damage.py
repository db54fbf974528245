"""Damaged and hostile files: one line for whatever a library raises, and a limit to what is unpacked."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gpt_tf2.errors import InputError

# What is compressed may have this many bytes, or as many for each byte of its file; real data stays below a tenth.
MOST_BYTES, MOST_PER_BYTE = 1 << 26, 100


def check_expansion(path: Path, declared: int, fix: str) -> None:
    """Raises InputError if a compressed file declares far more bytes than its own: a decompression bomb."""
    size = path.stat().st_size
    if declared > max(MOST_BYTES, MOST_PER_BYTE * size):
        raise InputError(f"{path}: {declared:,} bytes of data in a file of {size:,}: {fix}")


@contextlib.contextmanager
def explain_damage(problem: str, fix: str, setting: str | None = None, value: object = None) -> Iterator[None]:
    """Turns an error of the libraries that are called inside the `with` block into an InputError.

    Every kind of error counts, because the libraries raise more than they document: zipfile `NotImplementedError`,
    `RuntimeError`, `zlib.error` and `struct.error`; numpy what `ast.literal_eval` and `tokenize` raise, up to
    `MemoryError`; pyarrow `OverflowError`, `UnicodeDecodeError` and its own; safetensors `AttributeError`. So call
    nothing but a library inside.

    Args:
        problem: what is wrong. The library's message follows it.
        fix: what the error advises.
        setting, value: those of `InputError`.

    Raises InputError.

    Example:
        >>> with explain_damage("tides.npz: not an .npz of arrays", "write it again"):  # doctest: +SKIP
        ...     numpy.load("tides.npz")
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{problem} ({reason}): {fix}", setting, value) from None
