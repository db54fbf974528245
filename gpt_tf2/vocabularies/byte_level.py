"""What every byte-level vocabulary has: the printable names of bytes, and what a tokenizer asks of it."""

import functools
from collections.abc import Mapping
from typing import Any, Protocol

from gpt_tf2.errors import InputError

END_OF_TEXT = "<|endoftext|>"  # ends a text in OpenAI's vocabulary, and stands for what does in data and prompts
MOST_IDS = 2**31 - 1  # a token is a 32-bit integer

Definition = dict[str, Any]  # the content of a tokenizer.json
Settings = dict[str, Any]  # the content of a tokenizer_config.json


class Vocabulary(Protocol):
    """A vocabulary that was read.

    tokens: the bytes of each token by its id. Ids may have holes.
    end_of_text: the id of the token that ends a text.
    contents: the files that it is kept in, by their names.
    """

    tokens: dict[int, bytes]
    end_of_text: int

    @property
    def contents(self) -> dict[str, bytes]: ...

    def encode(self, text: str, end_is_token: bool, added_are_tokens: bool) -> list[int]:
        """The ids of a text. A lone surrogate is U+FFFD.

        end_is_token: whether the name of the end of text is its token, and `<|endoftext|>` the token of that name if
            there is one; else they are letters.
        added_are_tokens: whether the names of other added tokens are. Those of white space always are.
        """
        ...

    def define(self) -> Definition:
        """The vocabulary as a tokenizer.json."""
        ...

    def describe(self) -> Settings:
        """The vocabulary's tokenizer_config.json."""
        ...


@functools.cache
def byte_characters() -> Mapping[str, int]:
    """The printable character that stands for each byte in a vocabulary's files, in the order of OpenAI's 256 ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def read_name(name: str) -> bytes:
    """The bytes that the name of a token stands for. One with other characters than those of bytes is its own text.

    Example:
        >>> read_name("Ġtide")
        b' tide'
    """
    try:
        return bytes(map(byte_characters().__getitem__, name))
    except KeyError:
        return name.encode(errors="surrogatepass")


def check_ids(ids: object, source: str, fix: str) -> None:
    """Raises InputError unless a JSON value is a table of tokens and ids, each of one token."""
    if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
        raise InputError(f"{source}: not a table of tokens and ids: {fix}")
    named: dict[int, str] = {}
    for name, id in ids.items():
        if not 0 <= id <= MOST_IDS:
            raise InputError(f"{source}: token {name[:40]!r} has id {id:.3g}, which no model has: {fix}")
        if named.setdefault(id, name) != name:
            raise InputError(f"{source}: tokens {named[id][:40]!r} and {name[:40]!r} have one id, {id}: {fix}")
