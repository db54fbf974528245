"""A sample of the tokens that a run held out, kept with the model: what int8 costs is measured on them."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np

from gpt_tf2.data.batches import Batches
from gpt_tf2.storage.files import atomic_write

NAME = "validation.npy"
TOKENS = 1024
HEADER, CHECKSUM = 128, 4  # bytes before and after the tokens


def write_held_out(folder: Path, validation: Batches) -> None:
    """Keeps the first held-out tokens in a model's folder, as int32 [N]."""
    windows = itertools.islice(validation.windows(1, TOKENS), TOKENS)
    tokens = itertools.chain.from_iterable(batch.tokens[batch.segments > 0].tolist() for batch in windows)
    with atomic_write(folder / NAME) as temporary:
        temporary.write_bytes(encode(np.fromiter(itertools.islice(tokens, TOKENS), "<i4")))


def encode(tokens: np.ndarray) -> bytes:
    """The content of an .npy file of tokens, with its CRC-32 behind."""
    file = io.BytesIO()
    np.save(file, tokens)
    return file.getvalue() + struct.pack("<I", zlib.crc32(file.getvalue()))


def read_held_out(folder: Path, n_vocab: int) -> tuple[np.ndarray | None, str]:
    """The tokens kept in a model's folder, [N], or None if there are none; and a line to show if they are damaged."""
    path = folder / NAME
    if not path.exists():
        return None, ""
    try:
        content = b""
        if path.is_file():  # what somebody made may be a FIFO
            with path.open("rb") as file:
                content = file.read(HEADER + 4 * TOKENS + CHECKSUM + 1)
        tokens = np.frombuffer(content[HEADER:-CHECKSUM], "<i4")
        if content == encode(tokens) and len(tokens) > 1 and tokens.min() >= 0 and tokens.max() < n_vocab:
            return tokens, ""
    except (OSError, ValueError):
        pass
    return None, f"{path}: damaged or of another version, so the sample is not of this model's own held-out text"
