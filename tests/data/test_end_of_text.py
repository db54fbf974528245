"""One rule for `<|endoftext|>` in data, prompts and chat templates: the token of that name, else the end of text."""

import json
import shutil
from pathlib import Path

import pytest

from gpt_tf2.data.encoding import encode_text, read_streams
from gpt_tf2.generation.completions import encode_prompt
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tasks.chats import Message, make_chat
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import Reading
from gpt_tf2.tokenizer import Tokenizer
from helpers.workplace import OPENAI_TINY

TEXT = "A<|endoftext|>B"


@pytest.fixture(params=["<|endoftext|>", "<|im_end|>", "<|im_end|> alone"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    """OpenAI's vocabulary; one with another end of text (ChatML), and one without a token `<|endoftext|>`."""
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(OPENAI_TINY / name, tmp_path)
    end, _, alone = request.param.partition(" ")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": end}))
    if alone:
        ids = json.loads((tmp_path / "encoder.json").read_text())
        ids["<|none|>"] = ids.pop("<|endoftext|>")
        (tmp_path / "encoder.json").write_text(json.dumps(ids))
    return Tokenizer(tmp_path / "encoder.json", tmp_path / "vocab.bpe")


def read(tokenizer: Tokenizer, path: Path, **reading: bool) -> list[int]:
    """The ids of a text in a file."""
    (path / "d.txt").write_text(TEXT)
    text = find_task("text", Reading(**reading)).running_text
    assert text
    return read_streams(text, str(path / "d.txt"), tokenizer, Skipped())[0].tolist()


def test_it_is_one_token_in_data_prompts_and_templates(tokenizer: Tokenizer, tmp_path: Path) -> None:
    named = tokenizer.token_id("<|endoftext|>")
    mark = tokenizer.end_of_text if named is None else named
    a, b = tokenizer.encode("A"), tokenizer.encode("B")
    assert encode_prompt(tokenizer, TEXT).ids == [*a, mark, *b] == read(tokenizer, tmp_path)
    template = ChatTemplate(system=("", ""), user=(TEXT, "U"), assistant=("C", "D"))
    says = [Message(role, role, role == "assistant") for role in ("user", "assistant", "user", "assistant")]
    first, second = (encode_text(turn.prompt, tokenizer) for turn in make_chat(says, template, "").turns)
    assert first[: len(a) + 1 + len(b)] == [*a, mark, *b]
    # A reply ends with the end of text, whatever the name of that is.
    spoken = [*tokenizer.encode(f"D{TEXT}", allow_special=True), *tokenizer.encode("user"), *tokenizer.encode("UC")]
    assert second == [tokenizer.end_of_text, *spoken]


def test_read_literally_it_is_letters_as_is_the_name_of_the_end(tokenizer: Tokenizer, tmp_path: Path) -> None:
    letters = encode_prompt(tokenizer, TEXT, literal=True).ids
    assert letters == read(tokenizer, tmp_path, literal_specials=True) == tokenizer.encode(TEXT)
    end = tokenizer.decode([tokenizer.end_of_text])
    letters += encode_prompt(tokenizer, end, literal=True).ids
    assert not {tokenizer.end_of_text, tokenizer.token_id("<|endoftext|>")} & set(letters)
