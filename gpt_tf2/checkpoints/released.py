"""OpenAI's released models: where their files are, and how a file shows that it is not damaged."""

import os
import struct
from pathlib import Path

from gpt_tf2.checkpoints.tf1_index import Damage, parse_index, read_varint
from gpt_tf2.config import SIZES, GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import hash_file, read_utf8
from gpt_tf2.storage.json_text import read_json
from gpt_tf2.storage.machine import user_cache
from gpt_tf2.tokenizer import END_OF_TEXT, Tokenizer

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"
BASE_URL_VARIABLE = "GPT_TF2_BASE_URL"
HPARAMS, ENCODER, MERGES = "hparams.json", "encoder.json", "vocab.bpe"
DATA, INDEX, META = "model.ckpt.data-00000-of-00001", "model.ckpt.index", "model.ckpt.meta"
# Each after those that it is checked against, and the index last: where it is, the model is whole.
FILES = (HPARAMS, "checkpoint", ENCODER, MERGES, DATA, META, INDEX)
LARGEST = 1 << 26  # bytes of a file that holds no weights; the released ones have up to 1.8 MB

# SHA-256 of the released files, from the download script of the public repository MontrealAI/AGI-Alpha-Agent-v0.
# tiktoken has the same for the vocabulary, and a second document for the weights; `checkpoint` and `hparams.json` were
# hashed again from their text. Index and meta graph have this one source. For larger models none was found.
SHA256 = {
    "124M": {
        "checkpoint": "dd1b025d2e155283f5e300ce95bf6d5b6bc0f7fe010db73daa6975eb896ab9cb",
        ENCODER: "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        HPARAMS: "d9d56e4121c427164e0c55c6f03c08e1daf9002b9b672825112d19097b680318",
        DATA: "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
        INDEX: "71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687",
        META: "4668c448fa11531fd6700460487f73e82d3272960cea942252f8744bf225c77b",
        MERGES: "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    }
}


def cached_folder(size: str) -> Path | None:
    """The folder of a released model in the user's cache folder; None if there is no such folder."""
    cache = user_cache()
    return cache / "models" / size if cache else None


def find_size(checkpoint: str) -> str | None:
    """The released model that the path of a checkpoint names, by its folder: `124M` for `models/124M/model.ckpt`."""
    path = Path(checkpoint)
    return path.parent.name if path.name == "model.ckpt" and path.parent.name in SIZES else None


def find_server(base_url: str | None = None) -> str:
    """The URL of the folder that holds all sizes: the one given, or else the environment's or OpenAI's."""
    return (base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL).rstrip("/")


def expected_size(size: str, base_url: str) -> str | None:
    """The size that a server must send, as `find_damage` takes it.

    OpenAI's must send the released model; None for another server, which may send any GPT-2.
    """
    return size if base_url == BASE_URL else None


def find_damage(path: Path, name: str, size: str | None) -> str:
    """Find out what is wrong with a file of a model.

    A file of OpenAI's with a published SHA-256 must have it. Any other must have the format of its name, and belong to
    the files that come before it in `FILES`, which lie beside it.

    Args:
        path: the file, whatever it is called yet.
        name: what it is to be called, one of `FILES`.
        size: the released model that it must be part of. None for a model of another server, which may be any GPT-2.

    Returns what is wrong, for a message. Empty if nothing is.

    Raises OSError if a file cannot be read.

    Example:
        >>> find_damage(Path("models/124M/encoder.json.part"), "encoder.json", "124M")  # doctest: +SKIP
        "its SHA-256 is not that of OpenAI's file"
    """
    if sha256 := SHA256.get(size or "", {}).get(name):
        return "" if hash_file(path).hexdigest() == sha256 else "its SHA-256 is not that of OpenAI's file"
    try:
        if name == HPARAMS:
            config = GPT2Config.from_json(path)
            return "" if size is None or config == SIZES[size] else f"not the hyper-parameters of {size}"
        config = read_config(path.parent, size)
        if name == "checkpoint":
            is_whole = is_pointer(path)
        elif name == ENCODER:
            is_whole = is_vocabulary(read_json(path), config.n_vocab)
        elif name == MERGES:
            tokenizer = Tokenizer(path.with_name(ENCODER), path)
            is_openai = MERGES in tokenizer.list_files(for_transformers=False)
            is_whole = is_openai and tokenizer.n_vocab == config.n_vocab
        elif name == DATA:
            is_whole = path.stat().st_size == count_bytes(config)
        else:
            is_whole = (is_index if name == INDEX else is_message)(path.read_bytes())
    except (ValueError, RecursionError, Damage) as error:
        return f"not a whole {name} ({error})"
    return "" if is_whole else f"not a whole {name}"


def is_downloaded(folder: Path, size: str | None) -> bool:
    """Whether a folder has all files of a model, and weights of the right length.

    No file is hashed: a download gives a file its name once it is whole. The arguments are those of `find_damage`.
    """
    try:
        is_whole = all((folder / name).is_file() for name in FILES)
        return is_whole and (folder / DATA).stat().st_size == count_bytes(read_config(folder, size))
    except (InputError, OSError):  # another process replaces a file, or the hyper-parameters are damaged
        return False


def is_unfinished(folder: Path) -> bool:
    """Whether all that is in a folder was left by a download that was broken off."""
    if not folder.is_dir() or (folder / INDEX).exists():
        return False
    return all(path.name.lstrip(".").startswith(FILES) for path in folder.iterdir())


def find_largest_size(name: str, folder: Path, size: str | None) -> int:
    """The most bytes that a file of a folder can have. The arguments are those of `find_damage`."""
    return count_bytes(read_config(folder, size)) if name == DATA else LARGEST


def find_differences(folder: Path, size: str) -> list[str]:
    """The names of the files that have another SHA-256 than OpenAI's, as far as that is published."""
    return [name for name, sha256 in SHA256.get(size, {}).items() if hash_file(folder / name).hexdigest() != sha256]


def read_config(folder: Path, size: str | None) -> GPT2Config:
    return SIZES[size] if size else GPT2Config.from_json(folder / HPARAMS)


def count_bytes(config: GPT2Config) -> int:
    """The bytes of all weights in float32, without a list of them: `n_layer` may be any number."""
    n = config.n_embd
    block = 12 * n * n + 13 * n  # four matrices with their biases, and two layer norms
    return 4 * ((config.n_vocab + config.n_ctx) * n + config.n_layer * block + 2 * n)


def is_pointer(path: Path) -> bool:
    """Whether a file is the one that names the newest checkpoint of a folder."""
    text = read_utf8(path)
    return text.startswith('model_checkpoint_path: "') and text.endswith("\n")


def is_vocabulary(ids: object, n_vocab: int) -> bool:
    """Whether a JSON value is a table of tokens and all the ids from 0 on, with the end of text."""
    return (
        isinstance(ids, dict)
        and END_OF_TEXT in ids
        and len(ids) == n_vocab
        and all(type(i) is int for i in ids.values())
        and sorted(ids.values()) == list(range(n_vocab))
    )


def is_index(content: bytes) -> bool:
    """Whether bytes are the index of a checkpoint."""
    try:
        return bool(parse_index(content))
    except (Damage, UnicodeDecodeError, struct.error):
        return False


def is_message(content: bytes) -> bool:
    """Whether bytes are a protocol buffer: fields from the first byte to the last. A `MetaGraphDef` begins with 1."""
    at = 0
    while at < len(content):
        tag, at = read_varint(content, at)
        kind = tag & 7
        if kind == 0:
            _, at = read_varint(content, at)
        elif kind == 2:
            length, at = read_varint(content, at)
            at += length
        else:  # a MetaGraphDef has no fields of fixed width
            return False
    return content.startswith(b"\n") and at == len(content)
