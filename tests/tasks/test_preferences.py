"""The task `preferences`: pairs of texts and of chats, and what is wrong with a line."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt_tf2.cli import main
from gpt_tf2.errors import InputError
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE
from gpt_tf2.tasks.jsonl import to_example as read_one
from gpt_tf2.tasks.preferences import to_example
from gpt_tf2.tasks.task import Example, Turn, Unusable


def say(*contents: str) -> list[dict[str, str]]:
    """Messages of the user and the assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def read(**value: Any) -> Example:
    return to_example(value, "d.jsonl:3", DEFAULT_TEMPLATE)


def test_a_pair_of_texts_stands_as_it_is() -> None:
    assert read(prompt="1 + 1 =", chosen=" 2", rejected=" 3", score=5) == Example(
        "d.jsonl:3", "", (Turn("1 + 1 =", (" 2", " 3")),)
    )


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": say("Hi", "Hello", "Bye"), "chosen": say("", "See you")[1:], "rejected": say("", "No")[1:]},
        {"chosen": say("Hi", "Hello", "Bye", "See you"), "rejected": say("Hi", "Hello", "Bye", "No")},
        {"prompt": "Hi", "chosen": say("Hi", "Hello", "Bye", "See you"), "rejected": say("Hi", "Hello", "Bye", "No")},
    ],
    ids=["prompt", "whole", "beside"],
)
def test_a_pair_of_chats_differs_in_the_last_reply(value: dict[str, Any]) -> None:
    (turn,) = read(**value).turns
    assert turn.prompt == "\nUser: Hi\nAssistant: Hello<|endoftext|>\nUser: Bye\nAssistant:"
    assert turn.completions == (" See you", " No")


ALPACA = {"instruction": "Bye", "input": "", "history": [["Hi", "Hello"]], "chosen": "See you", "rejected": "No"}
SHAREGPT = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(["Hi", "Hello", "Bye"])]


@pytest.mark.parametrize(
    "value",
    [
        ALPACA,
        {
            "conversations": SHAREGPT,
            "chosen": {"from": "gpt", "value": "See you"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        {
            "messages": say("Hi", "Hello", "Bye"),
            "chosen": {"role": "assistant", "content": "See you"},
            "rejected": {"role": "assistant", "content": "No"},
        },
    ],
    ids=["Alpaca", "ShareGPT", "OpenAI"],
)
def test_the_forms_of_llama_factory_are_read(value: dict[str, Any]) -> None:
    example = read(system="Be brief.", **value)
    assert example.passage == "Be brief.\n"
    whole = say("Hi", "Hello", "Bye")
    assert example == read(
        system="Be brief.", chosen=[*whole, say("", "See you")[1]], rejected=[*whole, say("", "No")[1]]
    )
    with pytest.raises(InputError, match=r"^d\.jsonl:3: these are preferences.*give task preferences"):
        read_one(value, "d.jsonl:3", DEFAULT_TEMPLATE)


def test_an_input_follows_its_instruction() -> None:
    (turn,) = read(instruction="Add", input="1 1", chosen="2", rejected="3").turns
    assert turn == Turn("\nUser: Add\n1 1\nAssistant:", (" 2", " 3"))


@pytest.mark.parametrize(
    "rejected", [say("", "3")[1:], say("What is 1+1?", "3")], ids=["the reply alone", "the whole chat"]
)
def test_a_prompt_that_is_a_text_is_the_users_message_before_replies(rejected: list[dict[str, str]]) -> None:
    (turn,) = read(prompt="What is 1+1?", chosen=say("", "2")[1:], rejected=rejected).turns
    assert turn == Turn("\nUser: What is 1+1?\nAssistant:", (" 2", " 3"))


@pytest.mark.parametrize("prompt", ["Hi", say("Hi")], ids=["text", "messages"])
def test_the_systems_message_may_stand_beside_a_chat(prompt: Any) -> None:
    example = read(system="Be brief.", prompt=prompt, chosen=say("", "2")[1:], rejected=say("", "3")[1:])
    assert example.passage + example.turns[0].prompt == "Be brief.\n\nUser: Hi\nAssistant:"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, r'^d\.jsonl:3: "rejected" is missing, there is "prompt", "chosen": add it'),
        ({"chosen": "b", "rejected": "c"}, r'^d\.jsonl:3: "prompt" is missing, there is "chosen", "rejected"'),
        (
            {"system": "S", "prompt": "a", "chosen": "b", "rejected": "c"},
            r'^d\.jsonl:3: "system" beside texts is not read: write lists of messages, or put it into the prompt',
        ),
        ({"prompt": "a", "chosen": "b", "rejected": None}, r'^d\.jsonl:3: "rejected" is null, not text'),
        ({"prompt": "a", "chosen": "b", "rejected": say("c")}, r'^d\.jsonl:3: "rejected" is a list, not text'),
        (
            {"prompt": say("a"), "chosen": "b", "rejected": "c"},
            r'^d\.jsonl:3: chosen is a text, but the prompt a list: write chosen as \[{"role": "assistant", "content"',
        ),
        (
            {"prompt": say("a"), "chosen": say("", "b")[1:], "rejected": "c"},
            r"^d\.jsonl:3: rejected is a text, but the prompt a list: write rejected as",
        ),
        ({"chosen": say("a", "b"), "rejected": "c"}, r"^d\.jsonl:3: rejected: not a list"),
        (
            {"chosen": say("a", "b"), "rejected": say("a")},
            r"^d\.jsonl:3: rejected does not end with a message of the a",
        ),
        (ALPACA | {"rejected": None}, r'^d\.jsonl:3: "rejected" is null, not text'),
        ({"chosen": {"from": "gpt", "value": "a"}, "rejected": "c"}, r"^d\.jsonl:3: conversations: not a list"),
        (
            {"conversations": SHAREGPT, "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt"}},
            r'^d\.jsonl:3: rejected: "value" is missing, there is "from"',
        ),
        ({"chosen": [], "rejected": []}, r"^d\.jsonl:3: chosen does not end with a message of the assistant: end it"),
        (
            {"chosen": say("a", "b"), "rejected": say("x", "b")},
            r"^d\.jsonl:3: chosen and rejected differ before their last message: let them differ in that alone",
        ),
        (
            {"prompt": "a", "chosen": say("", "b", "c", "d")[1:], "rejected": say("", "b")[1:]},
            r"^d\.jsonl:3: chosen begins with the assistant's message, and more follow: let it hold",
        ),
        (
            {"prompt": 1, "chosen": say("", "b")[1:], "rejected": say("", "c")[1:]},
            r'^d\.jsonl:3: "prompt" is 1, not text',
        ),
    ],
)
def test_a_malformed_line_is_refused_with_its_place(value: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(**value)


@pytest.mark.parametrize(
    "value", [{"chosen": " b", "rejected": " b"}, {"chosen": say("a", "b"), "rejected": say("a", "b")}]
)
def test_equal_completions_teach_nothing(value: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match="equal"):
        read(prompt="a", **value)


def test_both_completions_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"}) + "\n")
    command = ["show-data", "--task=preferences", f"--data={path}"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"== {path}:1\n1 + 1 =⟦ 2⟧ chosen\n⟦ 3⟧ rejected\n\n"
    assert main([*command, "--json"]) == 0
    record = {"id": f"{path}:1", "prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"}
    assert json.loads(capsys.readouterr().out) == record
