"""Text that is streamed while its tokens come in."""

from pathlib import Path

from gpt_tf2 import Tokenizer
from gpt_tf2.generation.text_stream import TextStream


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
