"""Byte-level byte-pair encoding with OpenAI's `encoder.json` and `vocab.bpe` (Radford et al. 2019, section 2.2)."""

import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken

from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import parse_json
from gpt_tf2.storage.text_files import decode, read_blocks

END_OF_TEXT = "<|endoftext|>"

# OpenAI's pattern splits a text into words before merging. Possessive quantifiers, and a branch of its own for white
# space at the very end, split the same way without backtracking over long runs.
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# tiktoken's regular expressions give up on a million white spaces before a word. The pattern leaves the last of them to
# the word, so a text may be split there. (\x1c to \x1f are white space to Python, not to the pattern.)
LONG_SPACE = re.compile(r"(?<![^\S\x1c-\x1f])[^\S\x1c-\x1f]{100000,}(?=[\S\x1c-\x1f])")


class Tokenizer:
    """Converts text to token ids and back, exactly as OpenAI's encoder does.

    Args:
        encoder_json: the file with the table of tokens and ids.
        vocab_bpe: the file with the merges. Its first line, a version, is ignored.

    Attributes:
        n_vocab: tokens in the vocabulary.
        end_of_text: the id of `<|endoftext|>`, the last of the vocabulary.
        files: the two files.
        contents: their bytes. Each file is read once, so these are the vocabulary even if a file is replaced later.

    Raises InputError if a file cannot be read, is malformed, or does not belong to the other.

    Example:
        >>> tokenizer = Tokenizer("models/124M/encoder.json", "models/124M/vocab.bpe")  # doctest: +SKIP
        >>> tokenizer.encode("Hello, world")  # doctest: +SKIP
        [15496, 11, 995]
    """

    def __init__(self, encoder_json: str | Path, vocab_bpe: str | Path):
        self.files = Path(encoder_json), Path(vocab_bpe)
        self.contents = b"".join(read_blocks(encoder_json)), b"".join(read_blocks(vocab_bpe))
        ids = parse_json(self.contents[0], str(encoder_json))
        if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
            raise InputError(f"{encoder_json}: not a table of tokens and ids: give the model's encoder.json")
        if END_OF_TEXT not in ids:
            raise InputError(f"{encoder_json}: no token {END_OF_TEXT}: give the encoder.json of a GPT-2")
        ranks = parse_ranks(self.contents[1], vocab_bpe)
        check_pair(encoder_json, ids, vocab_bpe, ranks)
        self.n_vocab = len(ids)
        self.end_of_text: int = ids[END_OF_TEXT]
        self._encoding = tiktoken.Encoding(
            name=str(encoder_json),
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: self.end_of_text},
        )

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of every token's bytes, in the order of their ids: the same in every file format and layout."""
        digest = hashlib.sha256()
        for id in range(self.n_vocab):
            token = self.decode_bytes(id)
            digest.update(b"%d " % len(token) + token)
        return digest.hexdigest()

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of a text. A lone surrogate, which UTF-8 cannot hold, is encoded as U+FFFD.

        Args:
            allow_special: whether `<|endoftext|>` in the text is the token of that name. By default it is plain text.
        """
        allowed = {END_OF_TEXT} if allow_special else set()
        ids: list[int] = []
        for part in split_long_space(text):
            ids += self._encoding.encode(part, allowed_special=allowed, disallowed_special=())
        return ids

    def encode_batch(self, texts: Sequence[str], num_threads: int | None = None) -> list[list[int]]:
        """The ids of each text, without special tokens.

        Args:
            num_threads: threads to encode on. Default: one per core.
        """
        with ThreadPoolExecutor(num_threads or os.cpu_count()) as threads:
            return list(threads.map(self.encode, texts))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Bytes that are not UTF-8, such as half a character at the end, become U+FFFD."""
        return self._encoding.decode([int(i) for i in ids])

    def decode_bytes(self, id: int) -> bytes:
        """The bytes of one id, which may be part of a character."""
        return self._encoding.decode_single_token_bytes(id)

    def count_bytes(self, ids: np.ndarray) -> int:
        """The length in UTF-8 bytes of the text of integer ids, not counting `<|endoftext|>`."""
        lengths = np.array([len(self.decode_bytes(i)) for i in range(self.n_vocab)])
        lengths[self.end_of_text] = 0
        return int(lengths[ids].sum())


def split_long_space(text: str) -> list[str]:
    """Splits a text inside very long white space, into parts whose ids are together those of the text."""
    if not re.search(r"\s{9}", text[::10000]):  # a run of 100,000 would show in every 10,000th character
        return [text]
    cuts = [0, *(run.end() - 1 for run in LONG_SPACE.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def byte_characters() -> dict[str, int]:
    """The printable character that stands for each byte in the two files, in the order of the first 256 ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def parse_ranks(content: bytes, vocab_bpe: str | Path) -> dict[bytes, int]:
    """The id of each token by its bytes: first the 256 bytes, then one token per merge, in the order of the file."""
    lines = "".join(decode([content], vocab_bpe, encoding_fix="give the model's vocab.bpe")).split("\n")
    byte_of = byte_characters()
    ranks = {bytes([byte]): i for i, byte in enumerate(byte_of.values())}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(character in byte_of for part in pair for character in part):
            problem = f"{line[:40]!r} is not a merge of two tokens"
            raise InputError(f"{vocab_bpe}:{number}: {problem}: give the model's vocab.bpe")
        token = bytes(byte_of[character] for part in pair for character in part)
        ranks.setdefault(token, len(ranks))
    return ranks


def check_pair(encoder_json: str | Path, ids: dict[str, int], vocab_bpe: str | Path, ranks: dict[bytes, int]) -> None:
    """Raises InputError unless the two files give every token the same id, and `<|endoftext|>` the last."""
    characters = {byte: character for character, byte in byte_characters().items()}
    for token, rank in ranks.items():
        name = "".join(characters[byte] for byte in token)
        if ids.get(name) != rank:
            current = f"has id {ids[name]}" if name in ids else "is missing"
            problem = f"token {name!r} {current}, but has id {rank} by {vocab_bpe}"
            raise InputError(f"{encoder_json}: {problem}: give two files of one vocabulary, numbered as OpenAI's")
    if len(ids) != len(ranks) + 1 or ids[END_OF_TEXT] != len(ranks):
        sizes = f"{len(ids)} tokens, but {vocab_bpe} makes {len(ranks)} and {END_OF_TEXT}"
        raise InputError(f"{encoder_json}: {sizes}: give two files of one vocabulary")
