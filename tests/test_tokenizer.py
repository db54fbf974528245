"""The tokenizer against OpenAI's encoder, tiktoken and tokenizers."""

import json
import pydoc_data.topics
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken.load
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer

from gpt_tf2 import InputError, Tokenizer
from gpt_tf2.vocabularies.byte_level import byte_characters
from gpt_tf2.vocabularies.openai import define, number_tokens
from helpers.workplace import OPENAI_TINY


@pytest.fixture(scope="module")
def gpt2(gpt2_vocabulary: tuple[Path, Path]) -> Tokenizer:
    return Tokenizer(*gpt2_vocabulary)


def mixed_text() -> str:
    """A megabyte: the language reference, every script, numbers, white space and noise."""
    draw = random.Random(0)
    points = [c for c in range(1, 0x30000) if not 0xD800 <= c < 0xE000]
    words = [
        "I'll",
        "we've",
        "DON'T",
        "it's",
        " ",
        "  ",
        "\n\n",
        "\t",
        "\r\n",
        "12345",
        "3.14",
        "—",
        "…",
        "🙂",
        "e\u0301",
    ]
    noise = ["".join(draw.choices(words, k=60)) + "".join(map(chr, draw.choices(points, k=60))) for _ in range(1500)]
    return "\n".join([*pydoc_data.topics.topics.values(), *noise])


def test_the_ids_are_those_of_openais_encoder() -> None:
    tokenizer = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    cases = json.loads((OPENAI_TINY / "bpe.json").read_text())
    assert len(cases) > 5
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]


def test_a_megabyte_has_the_ids_of_tiktokens_gpt2(
    gpt2: Tokenizer, gpt2_vocabulary: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    encoder_json, vocab_bpe = map(str, gpt2_vocabulary)
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(vocab_bpe_file=vocab_bpe, encoder_json_file=encoder_json)
    # tiktoken's own pattern of gpt2, as OpenAI first published it.
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    oracle = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    text = mixed_text()
    assert len(text.encode()) > 1_000_000
    ids = gpt2.encode(text)
    assert ids == oracle.encode_ordinary(text)
    assert gpt2.decode(ids) == text


def test_a_megabyte_has_the_ids_of_tokenizers(gpt2: Tokenizer, gpt2_vocabulary: tuple[Path, Path]) -> None:
    oracle = ByteLevelBPETokenizer(*map(str, gpt2_vocabulary))
    text = mixed_text()
    assert gpt2.encode(text) == oracle.encode(text).ids


@given(st.text(max_size=300))
def test_every_text_survives_encoding_and_decoding(gpt2: Tokenizer, text: str) -> None:
    assert gpt2.decode(gpt2.encode(text)) == text


@pytest.mark.parametrize("text", [" " * 1_200_000 + "x", "\n" * 150_000 + " y", " " * 200_000, "a" * 300_000])
def test_long_runs_survive_encoding_and_decoding(gpt2: Tokenizer, text: str) -> None:
    assert gpt2.decode(gpt2.encode(text)) == text


def test_white_space_that_is_encoded_in_parts_has_the_ids_of_the_whole(gpt2: Tokenizer) -> None:
    text = "a" + " " * 150_000 + "b\x1c" + "\n" * 150_000 + "\x1dc" + " " * 150_000
    assert gpt2.encode(text) == gpt2._vocabulary._encoding.encode_ordinary(text)


def test_a_batch_has_the_ids_of_its_texts(gpt2: Tokenizer) -> None:
    texts = [f"{i} boats, {'tide ' * i}" for i in range(50)]
    expected = [gpt2.encode(text) for text in texts]
    assert gpt2.encode_batch(texts) == gpt2.encode_batch(texts, num_threads=1) == expected


def test_end_of_text_is_plain_text_unless_special_tokens_are_allowed(gpt2: Tokenizer) -> None:
    assert gpt2.end_of_text == 50256
    assert 50256 not in gpt2.encode("a<|endoftext|>b")
    assert gpt2.encode("a<|endoftext|>b", allow_special=True) == [64, 50256, 65]
    assert gpt2.decode([64, 50256, 65]) == "a<|endoftext|>b"


def test_half_a_character_decodes_to_the_replacement_character(gpt2: Tokenizer) -> None:
    ids = gpt2.encode("北")
    assert len(ids) > 1
    assert gpt2.decode(ids[:1]) == "\ufffd"


# Vocabularies of others

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A folder with two files in another order than OpenAI's, and what transformers keeps beside them."""
    ids = {name: i for i, name in enumerate(["<s>", "</s>", *byte_characters(), "he", "Ġt", "Ġthe", "<mask>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\nĠ t\nĠt he\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<user>": 270, "   ": 271}))
    names = {"eos_token": "</s>", "mask_token": {"content": "<mask>", "lstrip": True}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    return tmp_path


def open_others(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "vocab.json", folder / "merges.txt")


def write_whole(path: Path, change: Callable[[dict], Any] = lambda whole: None) -> None:
    """A tokenizer.json in OpenAI's order, changed."""
    merges = [("h", "e"), ("Ġ", "t")]
    whole = define(number_tokens(merges), merges, [FLAGS | {"id": 258, "content": "<|endoftext|>", "special": True}])
    change(whole)
    path.write_text(json.dumps(whole))


def test_added_tokens_in_a_text_are_tokens_but_for_the_end_of_text(others: Path) -> None:
    tokenizer = open_others(others)
    user, spaces, mask, end = 270, 271, 261, 1
    assert (tokenizer.end_of_text, tokenizer.n_vocab) == (end, 272)
    text = " the<user>   x <mask></s>"
    assert [id for id in tokenizer.encode(text) if id in (user, spaces, mask, end)] == [user, spaces, mask]
    assert tokenizer.encode(text, allow_special=True)[-1] == end
    assert [id for id in tokenizer.encode(text, allow_added=False) if id in (user, spaces, mask, end)] == [spaces]
    only_end = [id for id in tokenizer.encode(text, True, allow_added=False) if id in (user, spaces, mask, end)]
    assert only_end == [spaces, end]
    for options in ({}, {"allow_special": True}, {"allow_added": False}):
        assert tokenizer.decode(tokenizer.encode("the</s><user>é北", **options)) == "the</s><user>é北"
    assert tokenizer.decode(tokenizer.encode(text)) == " the<user>   x<mask></s>"  # <mask> takes the space before it


def test_ids_without_a_token_have_no_text(others: Path) -> None:
    tokenizer = open_others(others)
    assert tokenizer.undrawn(274).tolist() == [*range(262, 270), 272, 273]
    assert tokenizer.undrawn(264).tolist() == [262, 263] and tokenizer.undrawn(274).dtype == "int32"
    assert tokenizer.decode([260, 265, 270, 999]) == " the<user>"
    assert tokenizer.count_bytes(np.array([260, 265, 1, 270, 270])) == len(" the<user><user>")
    assert tokenizer.token_id(" the") == 260 and tokenizer.token_id("<user>") == 270
    assert tokenizer.token_id("the") is None
    digest = tokenizer.digest
    (others / "added_tokens.json").write_text(json.dumps({"<user>": 269, "   ": 271}))
    assert open_others(others).digest != digest


@pytest.mark.parametrize("text", [" " * 300_000 + "x", " \n" * 100_000, "a" * 100_000, "<user>" * 50_000])
def test_long_runs_survive_in_vocabularies_of_others(others: Path, text: str) -> None:
    tokenizer = open_others(others)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_lone_surrogate_is_the_replacement_character(gpt2: Tokenizer, others: Path) -> None:
    for tokenizer in (gpt2, open_others(others)):
        assert tokenizer.decode(tokenizer.encode("a\ud800b \ud83d\ude42")) == "a\ufffdb 🙂"
        assert tokenizer.token_id("\ud800") is None


def test_new_tokens_have_the_next_ids(others: Path) -> None:
    for tokenizer in (Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe"), open_others(others)):
        last = tokenizer.n_vocab
        extended = tokenizer.with_added(["<a>", "h", "<bot>", "<a>"]).with_added(["<|é|>"])
        assert extended.encode("<bot>x<a><|é|>") == [last + 1, *tokenizer.encode("x"), last, last + 2]
        assert extended.decode([last, last + 1, last + 2]) == "<a><bot><|é|>"
        assert extended.encode("harbour, </s>") == tokenizer.encode("harbour, </s>")
        assert extended.end_of_text == tokenizer.end_of_text and tokenizer.n_vocab == last
        assert extended.digest != tokenizer.digest and extended.contents != tokenizer.contents
        opened = Tokenizer.open(extended.origin)
        assert (opened.digest, opened.contents) == (extended.digest, extended.contents)
        assert tokenizer.with_added(["h"]) is tokenizer
    for name in ("", "Ġt"):  # the second is how a file writes " t"
        with pytest.raises(InputError, match="no new token can have this name: choose another"):
            open_others(others).with_added([name])


def test_a_tokenizer_json_in_openais_order_is_openais_vocabulary(tmp_path: Path) -> None:
    write_whole(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    for name, content in tokenizer.list_files(for_transformers=False).items():
        (tmp_path / name).write_bytes(content)
    pair = Tokenizer(tmp_path / "encoder.json", tmp_path / "vocab.bpe")
    assert (pair.digest, pair.contents) == (tokenizer.digest, tokenizer.contents)
    assert tokenizer.encode(" the<|endoftext|>") == pair.encode(" the<|endoftext|>")


def test_an_unchanged_tokenizer_json_is_saved_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    write_whole(path, lambda whole: whole["pre_tokenizer"].update(use_regex=False))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    assert Tokenizer(path).list_files(for_transformers=False)["tokenizer.json"] == path.read_bytes()


def rename_end(whole: dict) -> None:
    whole["model"]["vocab"]["end"] = whole["model"]["vocab"].pop("<|endoftext|>")
    whole["added_tokens"] = []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda whole: whole["model"].update(type="Unigram"), "its model is 'Unigram', no byte-level BPE"),
        (lambda whole: whole["model"].update(byte_fallback=True), "its BPE is not byte-level"),
        (lambda whole: whole.update(pre_tokenizer={"type": "Metaspace"}), "its BPE is not byte-level"),
        (lambda whole: whole["model"].update(vocab=[["a", 0.5]]), "not a table of tokens and ids"),
        (lambda whole: whole["model"]["vocab"].update(a=-1), "token 'a' has id -1, which no model has"),
        (lambda whole: whole["model"]["vocab"].update(a=2**40), r"token 'a' has id 1.1e\+12, which no model has"),
        (lambda whole: whole["model"]["vocab"].update(a=7), "tokens '\\(' and 'a' have one id, 7"),
        (lambda whole: whole["model"].update(merges=[["h", "é é"]]), "not read by Hugging Face's tokenizers"),
        (lambda whole: whole["added_tokens"].append({"content": "x"}), "added_tokens is no list of tokens"),
        (
            lambda whole: whole["added_tokens"].append(FLAGS | {"id": 3, "content": "<x>", "special": True}),
            "tokens '\\$' and '<x>' have one id, 3",
        ),
        (rename_end, "no token <|endoftext|>, and no eos_token in tokenizer_config.json"),
    ],
)
def test_what_is_no_byte_level_vocabulary_is_refused(
    tmp_path: Path, change: Callable[[dict], Any], problem: str
) -> None:
    write_whole(tmp_path / "tokenizer.json", change)
    with pytest.raises(InputError, match=rf"tokenizer\.json: {problem.replace('|', '[|]')}.*: give ") as error:
        Tokenizer(tmp_path / "tokenizer.json")
    assert "\n" not in str(error.value)


def test_two_files_that_do_not_belong_together_are_refused(others: Path) -> None:
    merges = (others / "merges.txt").read_text()
    (others / "merges.txt").write_text(merges + "x y\n")
    with pytest.raises(InputError, match=r"vocab.json: token 'xy' is missing, which .*merges.txt makes: give"):
        open_others(others)
    (others / "merges.txt").write_text(merges.removesuffix("Ġt he\n"))
    with pytest.raises(InputError, match=r"vocab.json: no merge in .*merges.txt makes its token 'Ġthe': give"):
        open_others(others)
    with pytest.raises(InputError, match=r"vocab.json: tokens without their merges: give the two files"):
        Tokenizer(others / "vocab.json")
    (others / "special_tokens_map.json").write_text("[]")
    with pytest.raises(InputError, match=r"special_tokens_map.json: not a JSON object: fetch"):
        open_others(others)
