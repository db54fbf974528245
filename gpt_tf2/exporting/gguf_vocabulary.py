"""A vocabulary as llama.cpp has it in a GGUF file."""

from typing import NamedTuple

from gpt_tf2.checkpoints.gguf_names import TokenKind
from gpt_tf2.errors import InputError
from gpt_tf2.tokenizer import Tokenizer
from gpt_tf2.vocabularies.byte_level import Definition
from gpt_tf2.vocabularies.openai import BYTE_LEVEL
from gpt_tf2.vocabularies.reading import split_merges
from gpt_tf2.vocabularies.tokenizer_json import find_id

FIX = "export to hf, which keeps the vocabulary as it is"


class GGUFVocabulary(NamedTuple):
    """Tokens in the order of their ids, the kind of each, and the merges, each of two names with a space between."""

    tokens: list[str]
    kinds: list[TokenKind]
    merges: list[str]


def to_gguf(tokenizer: Tokenizer, n_vocab: int) -> GGUFVocabulary:
    """A vocabulary for llama.cpp, filled up to `n_vocab` ids.

    Tokens keep the names that they have in a vocabulary's files. The names of added tokens are their text.

    Raises InputError if llama.cpp would encode a text to other ids.
    """
    definition = tokenizer.define()
    check_words(definition, str(tokenizer.files[0]))
    rows = {id: (name, TokenKind.NORMAL) for name, id in definition["model"]["vocab"].items()}
    for token in definition["added_tokens"]:
        kind = TokenKind.CONTROL if token.get("special") else TokenKind.USER_DEFINED
        rows[find_id(definition, token["content"])] = token["content"], kind
    filled = [rows.get(id, (f"[PAD{id}]", TokenKind.UNUSED)) for id in range(n_vocab)]
    tokens, kinds = [name for name, _ in filled], [kind for _, kind in filled]
    merges = [" ".join(pair) for pair in split_merges(definition["model"]["merges"])]
    if len(set(tokens)) < n_vocab or not merges:
        problem = "two tokens have one name there" if merges else "it has no merges"
        raise InputError(f"{tokenizer.files[0]}: not a vocabulary for llama.cpp: {problem}: {FIX}")
    return GGUFVocabulary(tokens, kinds, merges)


def check_words(definition: Definition, source: str) -> None:
    """Raises InputError unless a text is split into words as OpenAI does: llama.cpp knows no other way of a GPT-2's."""
    splitter = definition.get("pre_tokenizer")
    is_split_alike = (
        isinstance(splitter, dict) and {"use_regex": True} | splitter | {"trim_offsets": True} == BYTE_LEVEL
    )
    is_merged_alike = not definition["model"].get("ignore_merges")
    if definition.get("normalizer") is not None or not is_split_alike or not is_merged_alike:
        raise InputError(f"{source}: splits a text into words in a way that llama.cpp does not know: {FIX}")
    for token in definition["added_tokens"]:
        if any(token.get(flag) for flag in ("single_word", "lstrip", "rstrip")):
            name = token["content"][:40]
            raise InputError(
                f"{source}: token {name!r} takes the spaces around it, as no token of llama.cpp does: {FIX}"
            )
