"""OpenAI's form of a vocabulary, `encoder.json` and `vocab.bpe` (Radford et al. 2019, section 2.2).

The ids are in the order of the merges, and the only special token is the last, `<|endoftext|>`.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import tiktoken

from gpt_tf2.errors import InputError
from gpt_tf2.storage.text_files import decode
from gpt_tf2.vocabularies.byte_level import END_OF_TEXT, Definition, Settings, byte_characters, read_name

ENCODER, MERGES = "encoder.json", "vocab.bpe"
Merge = tuple[str, str]

# OpenAI's pattern splits a text into words before merging. Possessive quantifiers, and a branch of its own for white
# space at the very end, split the same way without backtracking over long runs.
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# tiktoken's regular expressions give up on a million white spaces before a word. The pattern leaves the last of them to
# the word, so a text may be split there. (\x1c to \x1f are white space to Python, not to the pattern.)
LONG_SPACE = re.compile(r"(?<![^\S\x1c-\x1f])[^\S\x1c-\x1f]{100000,}(?=[\S\x1c-\x1f])")

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


class OpenAIVocabulary:
    """A vocabulary in OpenAI's form, encoded by tiktoken.

    Args:
        ids: the ids of the tokens by their names.
        merges: in their order.
        contents: the two files as they were read. Default: made from the tokens.

    The ids are those of `number_tokens`.
    """

    def __init__(self, ids: Mapping[str, int], merges: Iterable[Merge], contents: tuple[bytes, bytes] | None = None):
        self._ids, self._merges = ids, list(merges)
        ranks = {read_name(name): i for name, i in ids.items() if name != END_OF_TEXT}
        self.end_of_text = ids[END_OF_TEXT]
        self.tokens = {i: token for token, i in ranks.items()} | {self.end_of_text: END_OF_TEXT.encode()}
        self.contents = dict(zip((ENCODER, MERGES), contents or write_pair(ids, self._merges), strict=True))
        self._encoding = tiktoken.Encoding(
            name="gpt2",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: self.end_of_text},
        )

    def encode(self, text: str, end_is_token: bool, added_are_tokens: bool) -> list[int]:
        allowed = {END_OF_TEXT} if end_is_token else set()
        ids: list[int] = []
        for part in split_long_space(text):
            ids += self._encoding.encode(part, allowed_special=allowed, disallowed_special=())
        return ids

    def define(self) -> Definition:
        end = {"id": self.end_of_text, "content": END_OF_TEXT, "special": True} | FLAGS
        return define(self._ids, self._merges, [end])

    def describe(self) -> Settings:
        ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        return {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False} | ends


def define(ids: Mapping[str, int], merges: Iterable[Merge], added: list[dict[str, Any]]) -> Definition:
    """Tokens and merges as a tokenizer.json that splits a text as OpenAI's pattern does."""
    model = {"type": "BPE", "vocab": dict(ids), "merges": [list(merge) for merge in merges]}
    parts = {"normalizer": None, "pre_tokenizer": {**BYTE_LEVEL}, "post_processor": None, "decoder": {**BYTE_LEVEL}}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "model": model}


def parse_merges(content: bytes, vocab_bpe: str) -> list[Merge]:
    """The merges of a file. Raises InputError if a line is none."""
    fix = "give the model's vocab.bpe"
    merges = []
    text = "".join(decode([content], vocab_bpe, encoding_fix=fix))
    strange = set(text) - {*byte_characters(), " ", "\n"}  # of the whole text at once: few files have any
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not strange.isdisjoint(line):
            raise InputError(f"{vocab_bpe}:{number}: {line[:40]!r} is not a merge of two tokens: {fix}")
        merges.append((pair[0], pair[1]))
    return merges


def number_tokens(merges: Iterable[Merge]) -> dict[str, int]:
    """The ids that OpenAI gives: first the 256 bytes, then a token per merge, in their order, and the end of text."""
    names = dict.fromkeys([*byte_characters(), *(left + right for left, right in merges)])
    return {name: i for i, name in enumerate([*names, END_OF_TEXT])}


def write_pair(ids: Mapping[str, int], merges: Iterable[Merge]) -> tuple[bytes, bytes]:
    """The contents of the two files."""
    table = json.dumps(dict(sorted(ids.items(), key=lambda item: item[1])))
    return table.encode(), ("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)).encode()


def split_long_space(text: str) -> list[str]:
    """Splits a text inside very long white space, into parts whose ids are together those of the text."""
    if not re.search(r"\s{9}", text[::10000]):  # a run of 100,000 would show in every 10,000th character
        return [text]
    cuts = [0, *(run.end() - 1 for run in LONG_SPACE.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]
