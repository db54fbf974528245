"""Byte-level byte-pair encoding over OpenAI's `encoder.json` and `vocab.bpe` (Radford et al. 2019, section 2.2)."""

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tiktoken

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import read_json, read_utf8

END_OF_TEXT = "<|endoftext|>"

# OpenAI's pattern cuts a text into words before merging. Written with possessive quantifiers, and with the white space
# at the very end apart, it cuts the same way without backtracking over long runs.
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def byte_characters() -> dict[str, int]:
    """The printable character that stands for each byte in the two files, in the order of the first 256 ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


# tiktoken's regular expressions give up on a million white spaces before a word. The pattern leaves the last of them to
# the word, so a text may be cut there. (\x1c to \x1f are white space to Python, not to the pattern.)
LONG_SPACE = re.compile(r"(?<![^\S\x1c-\x1f])[^\S\x1c-\x1f]{100000,}(?=[\S\x1c-\x1f])")


class Tokenizer:
    """Text ↔ token ids, as OpenAI's encoder gives them.

    Args:
        encoder_json: path of the token → id table.
        vocab_bpe: path of the merges, the first line a version.

    Raises InputError if a file cannot be read, is malformed, or does not belong to the other.
    """

    def __init__(self, encoder_json: str | Path, vocab_bpe: str | Path):
        ids = read_json(encoder_json)
        if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
            raise InputError(f"{encoder_json}: not a table of tokens and ids: give the model's encoder.json")
        if END_OF_TEXT not in ids:
            raise InputError(f"{encoder_json}: no {END_OF_TEXT} in it: give the encoder.json of a GPT-2")
        ranks = merge_ranks(vocab_bpe)
        characters = {byte: character for character, byte in byte_characters().items()}
        for token, rank in ranks.items():
            name = "".join(characters[byte] for byte in token)
            if ids.get(name) != rank:
                where = f"is id {rank} by {vocab_bpe}, but {ids.get(name, 'not there')} in {encoder_json}"
                raise InputError(f"token {name!r} {where}: give two files of one vocabulary")
        if len(ids) != len(ranks) + 1 or ids[END_OF_TEXT] != len(ranks):
            sizes = f"{len(ids)} tokens, {vocab_bpe} makes {len(ranks)} and {END_OF_TEXT}"
            raise InputError(f"{encoder_json} has {sizes}: give two files of one vocabulary")
        self.files = Path(encoder_json), Path(vocab_bpe)
        self.n_vocab = len(ids)
        self.end_of_text: int = ids[END_OF_TEXT]
        self._encoding = tiktoken.Encoding(
            name=str(encoder_json),
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: self.end_of_text},
        )

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of a text. `<|endoftext|>` in it is plain letters unless `allow_special`.

        A lone surrogate, which no UTF-8 text can hold, is encoded as U+FFFD.
        """
        allowed = {END_OF_TEXT} if allow_special else set()
        ids: list[int] = []
        for part in cut_long_space(text):
            ids += self._encoding.encode(part, allowed_special=allowed, disallowed_special=())
        return ids

    def encode_batch(self, texts: Sequence[str], num_threads: int | None = None) -> list[list[int]]:
        """`encode` of each text, on several threads (default: one a core)."""
        with ThreadPoolExecutor(num_threads or os.cpu_count()) as threads:
            return list(threads.map(self.encode, texts))

    def size(self, ids: np.ndarray) -> int:
        """How many bytes the text of ids has, the end-of-text token left out."""
        lengths = np.array([len(self.decode_bytes(i)) for i in range(self.n_vocab)])
        lengths[self.end_of_text] = 0
        return int(lengths[ids].sum())

    def decode_bytes(self, id: int) -> bytes:
        """The bytes of one id, which may be part of a character."""
        return self._encoding.decode_single_token_bytes(id)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 (half a character at an end) become U+FFFD."""
        return self._encoding.decode([int(i) for i in ids])


def cut_long_space(text: str) -> list[str]:
    """The text in parts that are encoded to the same ids as the whole."""
    if not re.search(r"\s{9}", text[::10000]):  # a run of 100,000 would show in every 10,000th character
        return [text]
    cuts = [0, *(run.end() - 1 for run in LONG_SPACE.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def merge_ranks(vocab_bpe: str | Path) -> dict[bytes, int]:
    """The bytes of every token → its id: the 256 bytes, then one token a merge, in the order of the file."""
    lines = read_utf8(vocab_bpe, encoding_fix="give the model's vocab.bpe").split("\n")
    byte_of = byte_characters()
    ranks = {bytes([byte]): i for i, byte in enumerate(byte_of.values())}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(character in byte_of for part in pair for character in part):
            raise InputError(
                f"{vocab_bpe}:{number}: {line[:40]!r} is not a merge of two tokens: give the model's vocab.bpe"
            )
        token = bytes(byte_of[character] for part in pair for character in part)
        ranks.setdefault(token, len(ranks))
    return ranks
