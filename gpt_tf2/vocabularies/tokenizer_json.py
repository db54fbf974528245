"""Hugging Face's form of a vocabulary, `tokenizer.json`, and what `tokenizer_config.json` adds to it."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpt_tf2.errors import InputError
from gpt_tf2.vocabularies.byte_level import END_OF_TEXT, Definition, Settings, byte_characters, check_ids, read_name
from gpt_tf2.vocabularies.openai import FLAGS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Engine

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
FIX = "give the tokenizer.json of a GPT-2, a byte-level BPE"
# Parts of a tokenizer.json that add or take away tokens of a whole text.
WHOLE_TEXT = {"truncation": None, "padding": None, "post_processor": None}


class JsonVocabulary:
    """A vocabulary in the form of Hugging Face's `tokenizer.json`, encoded by their library.

    Args:
        definition: the content of the file.
        settings: what tokenizer_config.json is to hold; its eos_token is the name of the end of text.
        source: the file that the definition comes from, for messages.
        content: the file's bytes, if they are to be written as they were read.

    Raises InputError if the definition is not that of a byte-level BPE.
    """

    def __init__(self, definition: Definition, settings: Settings, source: str, content: bytes | None = None):
        self._definition, self._settings, self._source = definition, settings, source
        check_byte_level(definition, source)
        self.tokens = list_tokens(definition, source)
        self._ends = {settings["eos_token"], END_OF_TEXT}
        self.end_of_text = find_id(definition, settings["eos_token"])
        self._content = content
        self._without_end = build(definition, lambda name: name not in self._ends, source)

    def encode(self, text: str, end_is_token: bool, added_are_tokens: bool) -> list[int]:
        if not added_are_tokens:
            engine = self._of_content_and_end if end_is_token else self._of_content
        else:
            engine = self._whole if end_is_token else self._without_end
        try:
            return engine.encode(text, add_special_tokens=False).ids
        except TypeError:  # a lone surrogate
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return engine.encode(text, add_special_tokens=False).ids

    def define(self) -> Definition:
        return self._definition

    def describe(self) -> Settings:
        return self._settings

    @functools.cached_property
    def contents(self) -> dict[str, bytes]:
        return {FILE: self._content or dump(self._definition), SETTINGS: dump(self._settings)}

    @functools.cached_property
    def _whole(self) -> "Engine":
        return build(self._definition, lambda name: True, self._source)

    @functools.cached_property
    def _of_content(self) -> "Engine":
        return build(self._definition, str.isspace, self._source)

    @functools.cached_property
    def _of_content_and_end(self) -> "Engine":
        return build(self._definition, lambda name: name in self._ends or name.isspace(), self._source)


def build(definition: Definition, keep: Callable[[str], bool], source: str) -> "Engine":
    """The library's encoder of a definition with some of its added tokens; the names of the others are letters.

    Raises InputError if the library refuses the definition.
    """
    from tokenizers import Tokenizer as Engine

    added = [token for token in definition["added_tokens"] if keep(token["content"])]
    # In the model's table, tokens keep their ids whichever of them there are.
    table = {token["content"]: token["id"] for token in added} | definition["model"]["vocab"]
    model = definition["model"] | {"type": "BPE", "vocab": table, "dropout": None}
    try:
        return Engine.from_str(json.dumps(definition | WHOLE_TEXT | {"added_tokens": added, "model": model}))
    except Exception as error:  # the library raises nothing more special
        raise InputError(f"{source}: not read by Hugging Face's tokenizers ({str(error)[:100]}): {FIX}") from None


def check_byte_level(definition: object, source: str) -> None:
    """Raises InputError unless a JSON value is the tokenizer.json of a byte-level BPE."""
    model = definition.get("model") if isinstance(definition, dict) else None
    if not isinstance(definition, dict) or not isinstance(model, dict):
        raise InputError(f"{source}: no model in it: {FIX}")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise InputError(f"{source}: its model is {kind!r:.40}, no byte-level BPE: {FIX}")
    whole_words = any(model.get(key) for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"))
    steps = list_steps(definition.get("pre_tokenizer")) + list_steps(definition.get("normalizer"))
    if whole_words or "ByteLevel" not in steps:
        raise InputError(f"{source}: its BPE is not byte-level: {FIX}")
    check_ids(model.get("vocab"), source, FIX)
    added = definition.setdefault("added_tokens", [])
    if not isinstance(added, list) or not all(is_added_token(token) for token in added):
        raise InputError(f"{source}: added_tokens is no list of tokens: {FIX}")
    check_ids({token["content"]: token["id"] for token in added}, source, FIX)


def is_added_token(token: object) -> bool:
    return (
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and token["content"] != ""
        and type(token.get("id")) is int
    )


def list_steps(step: object) -> list[str]:
    """The types of a step of a tokenizer.json and of those inside it, if it is a sequence."""
    steps = [step]
    for outer in steps:
        if isinstance(outer, dict):
            inner = outer.get("pretokenizers") or outer.get("normalizers")
            steps += inner if isinstance(inner, list) else []
    return [str(each.get("type")) for each in steps if isinstance(each, dict)]


def list_tokens(definition: Definition, source: str) -> dict[int, bytes]:
    """The bytes of each token by its id. Raises InputError if an added token has the id of another token."""
    names = {i: name for name, i in definition["model"]["vocab"].items()}
    tokens = {i: read_name(name) for i, name in names.items()}
    for token in definition["added_tokens"]:
        name = token["content"]
        id = find_id(definition, name)
        if names.setdefault(id, name) != name:
            raise InputError(f"{source}: tokens {names[id][:40]!r} and {name[:40]!r} have one id, {id}: {FIX}")
        if name not in byte_characters():
            tokens[id] = name.encode(errors="surrogatepass")
    return dict(sorted(tokens.items()))


def find_id(definition: Definition, name: str) -> int:
    """The id of a token of the model's table, or of an added one."""
    table = definition["model"]["vocab"]
    return table[name] if name in table else next(t["id"] for t in definition["added_tokens"] if t["content"] == name)


def add_tokens(
    definition: Definition, names: Sequence[str], special: bool, flags: dict[str, bool] = FLAGS
) -> Definition:
    """A definition in which some names are added tokens, with their ids if they have any, else with the next ones."""
    table, added = definition["model"]["vocab"], list(definition["added_tokens"])
    for name in names:
        if any(token["content"] == name for token in added):
            continue
        following = max([*table.values(), *(token["id"] for token in added)], default=-1) + 1
        added.append({"id": table.get(name, following), "content": name, "special": special} | FLAGS | flags)
    return definition | {"added_tokens": sorted(added, key=lambda token: token["id"])}


def place_tokens(definition: Definition) -> Definition:
    """A definition from which the library makes the ids that stand in it.

    It numbers added tokens that are not in the model's table one after another, whatever their ids are. If that gives
    others, they go into the table.
    """
    table, added = definition["model"]["vocab"], definition["added_tokens"]
    following = len(table)
    for token in added:
        if token["id"] != table.get(token["content"], following):
            table = {token["content"]: token["id"] for token in added} | table
            return definition | {"model": definition["model"] | {"vocab": table}}
        following = max(following, token["id"] + 1)
    return definition


def dump(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode(errors="replace")
