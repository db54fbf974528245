"""Prompts of a conversation, and what is dropped where the context is too short."""

from pathlib import Path

from gpt_tf2.generation.prompts import build_prompt
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tasks.chats import Message, make_chat
from gpt_tf2.tasks.task import Example, Turn
from helpers import made_up


def test_old_turns_go_first_then_the_end_of_the_passage_then_the_beginning_of_the_question(tmp_path: Path) -> None:
    tokenizer = made_up.write_vocabulary(tmp_path)
    turns = tuple(Turn(f"\n Q: What colour was it {i}?\n A:", (" red",)) for i in range(6))
    example = Example("x", "Once there was a red cat. " * 8, turns)
    passage = tokenizer.encode(example.passage)
    answers = [" red", " blue", " green"]

    def build(room: int) -> tuple[str, bool]:
        ids, is_whole = build_prompt(passage, example, answers, room, tokenizer)
        assert len(ids) <= room
        return tokenizer.decode(ids), is_whole

    everything = example.passage + "".join(f"\n Q: What colour was it {i}?\n A:{a}" for i, a in enumerate(answers))
    everything += "\n Q: What colour was it 3?\n A:"
    size = len(tokenizer.encode(everything))
    assert build(size + 20) == (everything, True)
    text, is_whole = build(size - 5)
    assert not is_whole and text.startswith("Once") and text.endswith(everything[len(example.passage) :])
    text, is_whole = build(60)
    assert not is_whole and text.startswith("Once") and " red\n Q: What colour was it 1" not in text
    assert text.endswith("A: green\n Q: What colour was it 3?\n A:")
    assert build(4)[0] == tokenizer.decode(tokenizer.encode(turns[3].prompt)[-4:])


def test_the_end_of_a_reply_goes_with_its_turn(tmp_path: Path) -> None:
    tokenizer = made_up.write_vocabulary(tmp_path)
    template = ChatTemplate(("", "\n"), ("\nUser: ", ""), ("\nAssistant: ", "\n--"))
    chat = [Message(role, word, role == "assistant") for word in "abc" for role in ("user", "assistant")]
    example = make_chat([Message("system", "Be kind.", False), *chat], template, "chat")
    passage, end = tokenizer.encode(example.passage), tokenizer.decode([tokenizer.end_of_text])
    asked = ["\nUser: a\nAssistant: 1", "\nUser: b\nAssistant: 2", "\nUser: c\nAssistant:"]

    def build(room: int) -> str:
        return tokenizer.decode(build_prompt(passage, example, [" 1", " 2"], room, tokenizer)[0])

    whole = example.passage + f"{end}\n--".join(asked)
    assert build(999) == whole
    size = len(tokenizer.encode(whole))  # an end-of-text token in it counts several
    texts = {build(room) for room in range(1, size)}
    assert example.passage + f"{end}\n--".join(asked[1:]) in texts and example.passage + asked[2] in texts
    assert not any(text.removeprefix(example.passage).startswith(end) for text in texts)
