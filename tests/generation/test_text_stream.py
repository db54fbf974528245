"""Text that is streamed while its tokens come in."""

import json
from pathlib import Path

from gpt_tf2 import Tokenizer
from gpt_tf2.generation.completions import encode_prompt
from gpt_tf2.generation.text_stream import TextStream
from gpt_tf2.vocabularies.byte_level import byte_characters


def test_a_stream_shows_whole_characters_and_nothing_of_a_stop_text(gpt2_vocabulary: tuple[Path, Path]) -> None:
    tokenizer = Tokenizer(*gpt2_vocabulary)
    text = "naïve 🎻 café, then QED and more"
    for stops, expected in (([], text), (["QED"], "naïve 🎻 café, then "), (["Q", "the"], "naïve 🎻 café, ")):
        shown: list[str] = []
        stream = TextStream(tokenizer, stops, shown.append)
        for id in tokenizer.encode(text):
            if not stream.add(id):
                break
        assert stream.finish() == "".join(shown) == expected
        assert "\ufffd" not in stream.text
        assert stream.stopped == bool(stops)


def test_an_incomplete_last_character_is_dropped(gpt2_vocabulary: tuple[Path, Path]) -> None:
    tokenizer = Tokenizer(*gpt2_vocabulary)
    stream = TextStream(tokenizer)
    stream.add(tokenizer.encode("🎻")[0])
    assert stream.finish() == ""


def test_added_tokens_are_streamed_whole_and_prompts_end_texts_by_any_name(tmp_path: Path) -> None:
    ids = {name: i for i, name in enumerate(["</s>", *byte_characters()])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    tokenizer = Tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt").with_added(["<|é🙂|>"])
    shown: list[str] = []
    stream = TextStream(tokenizer, show=shown.append)
    for id in tokenizer.encode("é<|é🙂|>x"):
        stream.add(id)
    assert shown == ["é", "<|é🙂|>", "x"]
    for text in ("x<|endoftext|>y", "x</s>y"):
        assert encode_prompt(tokenizer, text).ids == [*tokenizer.encode("x"), 0, *tokenizer.encode("y")]
        assert len(encode_prompt(tokenizer, text, literal=True).ids) == len(text)
    assert encode_prompt(tokenizer, "").ids == [0]
