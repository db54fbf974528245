"""The vocabulary that belongs to a checkpoint: where it is found, and how it is saved."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from gpt_tf2.checkpoints.companions import companion_folder, find_companion, list_folders
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write
from gpt_tf2.tokenizer import Tokenizer

ENCODER, MERGES, WHOLE = ("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt"), "tokenizer.json"


def find_vocabulary(
    path: Path,
    json_encoder: str | Path | None = None,
    vocab_bpe: str | Path | None = None,
    fallbacks: Sequence[Path] = (),
) -> Tokenizer | None:
    """The vocabulary of a checkpoint; None if there is none.

    Of two forms in one folder, tokenizer.json counts, as in transformers.

    Args:
        path, fallbacks: where to look; see `find_companion`.
        json_encoder, vocab_bpe: the files, if they are given.
    """
    if not json_encoder and not vocab_bpe:
        for folder in list_folders(path, fallbacks):
            if (folder / WHOLE).is_file():
                return open_whole(folder)
            if any((folder / name).is_file() for name in (*ENCODER, *MERGES)):
                break
    encoder = json_encoder or find_companion(path, *ENCODER, fallbacks=fallbacks)
    merges = vocab_bpe or find_companion(path, *MERGES, fallbacks=fallbacks)
    return Tokenizer(encoder, merges) if encoder and (json_encoder or merges) else None


def open_whole(folder: Path) -> Tokenizer:
    """The vocabulary of a folder's tokenizer.json; from OpenAI's two files if these hold the same."""
    tokenizer = Tokenizer(folder / WHOLE)
    encoder, merges = (find_companion(folder, *names) for names in (ENCODER, MERGES))
    if encoder and merges and WHOLE not in tokenizer.list_files(for_transformers=False):
        with contextlib.suppress(InputError):  # as transformers, which does not read them
            original = Tokenizer(encoder, merges)
            if original.digest == tokenizer.digest:
                return original
    return tokenizer


def save_vocabulary(tokenizer: Tokenizer, path: Path) -> None:
    """Writes a vocabulary beside a checkpoint, in its own form and as it was when it was read.

    Beside `.safetensors` it is also written for transformers. So it is where a tokenizer.json lies, which would be read
    instead.
    """
    folder = companion_folder(path)
    for_transformers = path.suffix == ".safetensors" or (folder / WHOLE).is_file()
    for name, content in tokenizer.list_files(for_transformers).items():
        copy = folder / name
        if not copy.is_file() or copy.read_bytes() != content:  # it may be read-only, where nothing changes
            with atomic_write(copy) as temporary:
                temporary.write_bytes(content)
