"""Which vocabulary files hold: one in OpenAI's form or in Hugging Face's, with what transformers keeps beside them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt_tf2.backend.starting import pause_collection
from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import parse_json, read_json
from gpt_tf2.storage.text_files import read_blocks
from gpt_tf2.vocabularies import openai
from gpt_tf2.vocabularies.byte_level import END_OF_TEXT, Definition, Settings, Vocabulary, byte_characters, check_ids
from gpt_tf2.vocabularies.openai import BYTE_LEVEL, FLAGS, OpenAIVocabulary
from gpt_tf2.vocabularies.tokenizer_json import (
    FILE,
    SETTINGS,
    JsonVocabulary,
    add_tokens,
    check_byte_level,
    dump,
    place_tokens,
)

ADDED, SPECIALS, CONFIG = "added_tokens.json", "special_tokens_map.json", "config.json"
BESIDE = (ADDED, SPECIALS, SETTINGS)  # what transformers keeps beside a vocabulary
ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
LISTS = ("additional_special_tokens", "extra_special_tokens")
KEPT = (*ROLES, *LISTS, "chat_template", "model_max_length", "clean_up_tokenization_spaces")  # of the settings
# transformers' classes whose add_prefix_space stands in their settings; without one, a GPT-2 has the first.
LIKE_GPT_2 = ("GPT2Tokenizer", "CodeGenTokenizer", "RobertaTokenizer")
SPECIAL_NAME = re.compile(r"[<\[].*[>\]]", re.DOTALL)
ID = re.compile("[0-9]{1,9}")
JSON_FIX = "fetch or write the file again"
ENCODER_FIX = "give the model's encoder.json"


@pause_collection()  # of the hundred thousands of names none is garbage
def read_vocabulary(encoder_json: Path, vocab_bpe: Path | None) -> tuple[tuple[Path, ...], Vocabulary]:
    """The files that were read, and the vocabulary. The arguments are those of `Tokenizer`."""
    source, folder = str(encoder_json), encoder_json.parent
    content = b"".join(read_blocks(encoder_json))
    parsed = parse_json(content, source)
    beside = [folder / name for name in (SETTINGS, SPECIALS) if (folder / name).is_file()]
    settings: Settings = {}
    for path in beside:
        settings |= read_object(path)
    if isinstance(parsed, dict) and isinstance(parsed.get("model"), dict):
        check_byte_level(parsed, source)
        definition, settings = complete(parsed, settings, folder, source)
        return (encoder_json, *beside), simplify(definition, settings) or JsonVocabulary(
            definition, settings, source, content if definition == parsed else None
        )
    check_ids(parsed, source, ENCODER_FIX)
    ids: dict[str, int] = parsed  # type: ignore[assignment]
    if vocab_bpe is None:
        raise InputError(f"{source}: tokens without their merges: give the two files of a vocabulary")
    merges_content = b"".join(read_blocks(vocab_bpe))
    merges = openai.parse_merges(merges_content, str(vocab_bpe))
    definition = openai.define(ids, merges, [])
    if "added_tokens_decoder" not in settings and (folder / ADDED).is_file():
        beside.append(folder / ADDED)
        definition |= {"added_tokens": list_added(folder / ADDED, settings)}
    definition, settings = complete(definition, settings, folder, source)
    check_pair(definition, source, str(vocab_bpe))
    files = (encoder_json, vocab_bpe, *beside)
    simple = simplify(definition, settings, (content, merges_content))
    return files, simple or JsonVocabulary(place_tokens(definition), settings, source)


def read_object(path: Path) -> Settings:
    """A JSON object. Raises InputError if a file holds none."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a JSON object: {JSON_FIX}")
    return values


def list_added(path: Path, settings: Settings) -> list[dict[str, Any]]:
    """The tokens of an added_tokens.json, with the flags that transformers gives them."""
    ids = read_object(path)
    check_ids(ids, str(path), JSON_FIX)
    specials = {name for name, _ in list_specials(settings)}
    return [
        FLAGS | {"id": id, "content": name, "special": name in specials, "normalized": name not in specials}
        for name, id in sorted(ids.items(), key=lambda item: item[1])
        if name
    ]


def list_specials(settings: Settings) -> Iterator[tuple[str, dict[str, bool]]]:
    """The names of special tokens in transformers' settings, with their flags where these stand there."""
    values = [settings.get(role) for role in ROLES]
    for key in LISTS:
        several = settings.get(key)
        values += several.values() if isinstance(several, dict) else several if isinstance(several, list) else []
    for value in values:
        name = name_token(value)
        if name:
            flags = value if isinstance(value, dict) else {}
            yield name, {key: bool(flags.get(key)) for key in FLAGS}


def name_token(value: object) -> str | None:
    """The name of a token in transformers' settings: a text, or an object that holds it as content."""
    name = value.get("content") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def name_all(value: object) -> object:
    """A value of the settings with the names of tokens alone: their flags stand in the tokenizer.json."""
    if isinstance(value, list):
        return [name_all(inner) for inner in value]
    return value["content"] if isinstance(value, dict) and "content" in value else value


def complete(definition: Definition, settings: Settings, folder: Path, source: str) -> tuple[Definition, Settings]:
    """A definition with what transformers' settings say of it, and the settings to keep, whose eos_token ends a text.

    Raises InputError if no token ends a text.
    """
    decoder = settings.get("added_tokens_decoder")
    for id, token in decoder.items() if isinstance(decoder, dict) else ():
        name = name_token(token)
        if name and isinstance(token, dict) and ID.fullmatch(id) and not has_added(definition, name):
            flags = {key: bool(token.get(key)) for key in (*FLAGS, "special")}
            added = [*definition["added_tokens"], {"id": int(id), "content": name} | flags]
            definition = definition | {"added_tokens": added}
    for name, flags in list_specials(settings):
        definition = add_tokens(definition, [name], special=True, flags=flags)
    kind = str(settings.get("tokenizer_class") or LIKE_GPT_2[0]).removesuffix("Fast")
    splitter = definition.get("pre_tokenizer")
    if kind in LIKE_GPT_2 and isinstance(splitter, dict) and splitter.get("type") == "ByteLevel":
        splitter = splitter | {"add_prefix_space": bool(settings.get("add_prefix_space"))}
        definition = definition | {"pre_tokenizer": splitter}
    end = name_token(settings.get("eos_token")) or find_end(definition, folder, source)
    names = [end, *([END_OF_TEXT] if END_OF_TEXT in definition["model"]["vocab"] else [])]
    return add_tokens(definition, names, special=True), select_settings(settings, end)


def select_settings(settings: Settings, end: str) -> Settings:
    """The settings that a JsonVocabulary keeps."""
    kept = {key: name_all(settings[key]) for key in KEPT if settings.get(key) is not None and key != "eos_token"}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end} | kept


def has_added(definition: Definition, name: str) -> bool:
    return any(token["content"] == name for token in definition["added_tokens"])


def find_end(definition: Definition, folder: Path, source: str) -> str:
    """The token that ends a text, where transformers' settings name none: OpenAI's, or the one of the model's config.

    Raises InputError if there is none.
    """
    table = definition["model"]["vocab"]
    if END_OF_TEXT in table or has_added(definition, END_OF_TEXT):
        return END_OF_TEXT
    ids = read_object(folder / CONFIG).get("eos_token_id") if (folder / CONFIG).is_file() else None
    end = ids[0] if isinstance(ids, list) and ids else ids
    names = {id: name for name, id in table.items()}
    names |= {token["id"]: token["content"] for token in definition["added_tokens"]}
    if type(end) is int and names.get(end):
        return names[end]
    raise InputError(f"{source}: no token {END_OF_TEXT}, and no eos_token in {SETTINGS}: {ENCODER_FIX}")


def simplify(
    definition: Definition, settings: Settings, contents: tuple[bytes, bytes] | None = None
) -> OpenAIVocabulary | None:
    """A vocabulary in OpenAI's form; None if it has another order, other special tokens or another way to split."""
    model, added, splitter = definition["model"], definition["added_tokens"], definition.get("pre_tokenizer")
    is_plain = (
        [token["content"] for token in added] == [settings["eos_token"]] == [END_OF_TEXT]
        and not any(added[0].get(flag) for flag in ("single_word", "lstrip", "rstrip"))
        and definition.get("normalizer") is None
        and isinstance(splitter, dict)
        and {"use_regex": True} | splitter | {"trim_offsets": True} == BYTE_LEVEL
        and not model.get("ignore_merges")
    )
    merges = list(split_merges(model.get("merges"))) if is_plain else []
    if not is_plain or openai.number_tokens(merges) != model["vocab"]:
        return None
    return OpenAIVocabulary(model["vocab"], merges, contents)


def split_merges(merges: object) -> Iterator[openai.Merge]:
    """The merges of a tokenizer.json, where each is a text or a list. Leaves out what is no merge."""
    for merge in merges if isinstance(merges, list) else ():
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
            yield pair[0], pair[1]


def check_pair(definition: Definition, encoder_json: str, vocab_bpe: str) -> None:
    """Raises InputError unless every merge makes a token, and every token is a byte's, a merge's or a special one."""
    table, fix = definition["model"]["vocab"], "give two files of one vocabulary"
    made = set(byte_characters())
    for pair in definition["model"]["merges"]:
        name = "".join(pair)
        if name not in table:
            raise InputError(f"{encoder_json}: token {name[:40]!r} is missing, which {vocab_bpe} makes: {fix}")
        made.add(name)
    added = {token["content"] for token in definition["added_tokens"]}
    for name in table:
        if name not in made and name not in added and not SPECIAL_NAME.fullmatch(name):
            raise InputError(f"{encoder_json}: no merge in {vocab_bpe} makes its token {name[:40]!r}: {fix}")


def extend(vocabulary: Vocabulary, names: Sequence[str], source: str) -> JsonVocabulary:
    """A vocabulary with new added tokens, which have the next ids.

    Raises InputError if a name is in the table of tokens, where it stands for other text.
    """
    definition = vocabulary.define()
    for name in names:
        if not name or name in definition["model"]["vocab"]:
            raise InputError("no new token can have this name: choose another", "add_tokens", repr(name))
    settings = vocabulary.describe()
    settings = select_settings(settings, settings["eos_token"])
    return JsonVocabulary(place_tokens(add_tokens(definition, names, special=False)), settings, source)


def list_files(vocabulary: Vocabulary, for_transformers: bool) -> dict[str, bytes]:
    """The contents of the files to save, by their names.

    for_transformers: whether to add what transformers reads, and to call OpenAI's files as transformers does.
    """
    contents = dict(vocabulary.contents)
    if for_transformers and isinstance(vocabulary, OpenAIVocabulary):
        contents = dict(zip(("vocab.json", "merges.txt"), contents.values(), strict=True))
        contents |= {FILE: dump(vocabulary.define()), SETTINGS: dump(vocabulary.describe())}
    return contents
