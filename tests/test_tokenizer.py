"""The tokenizer against OpenAI's encoder, tiktoken and tokenizers."""

import json
import pydoc_data.topics
import random
from pathlib import Path

import pytest
import tiktoken.load
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer

from gpt_tf2 import Tokenizer
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
