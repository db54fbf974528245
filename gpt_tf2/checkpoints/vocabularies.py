"""The vocabulary that belongs to a checkpoint: where it is found, and how it is saved."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from gpt_tf2.checkpoints.companions import companion_folder, find_companion, list_folders
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write
from gpt_tf2.tokenizer import Tokenizer
from gpt_tf2.vocabularies.reading import BESIDE

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
    instead. What transformers kept there beside another vocabulary is deleted, if it would change what is read.

    Raises InputError if another vocabulary would be read all the same.
    """
    folder = companion_folder(path)
    for_transformers = path.suffix == ".safetensors" or (folder / WHOLE).is_file()
    contents = tokenizer.list_files(for_transformers)
    changed = [name for name, content in contents.items() if not holds(folder / name, content)]
    for name in changed:  # the others may be read-only
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(contents[name])
    others = [folder / name for name in BESIDE if name not in contents and (folder / name).is_file()]
    if others and not is_read_there(tokenizer, path):
        for other in others:
            other.unlink()
    if changed:
        check_saved(tokenizer, path)


def holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def is_read_there(tokenizer: Tokenizer, path: Path) -> bool:
    """Whether a vocabulary is what is read beside a checkpoint, with the same end of text and the same ids for text."""
    try:
        found = find_vocabulary(path)
    except InputError:
        return False
    if found is None or found.end_of_text != tokenizer.end_of_text:
        return False
    return found.list_files(for_transformers=True)[WHOLE] == tokenizer.list_files(for_transformers=True)[WHOLE]


def check_saved(tokenizer: Tokenizer, path: Path) -> None:
    """Raises InputError unless a saved vocabulary is what is read."""
    found = find_vocabulary(path)
    if not found or (found.digest, found.end_of_text) != (tokenizer.digest, tokenizer.end_of_text):
        folder = companion_folder(path)
        raise InputError(f"{folder}: another vocabulary than the one that was saved is read from it: empty the folder")
