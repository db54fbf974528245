"""The task `preferences`: pairs of texts and of chats, and what is wrong with a line."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt_tf2.cli import main
from gpt_tf2.errors import InputError
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE
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


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, r'^d\.jsonl:3: "rejected" is missing, there is "prompt", "chosen": add it'),
        ({"chosen": "b", "rejected": "c"}, r'^d\.jsonl:3: "prompt" is missing, there is "chosen", "rejected"'),
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
        ({"chosen": [], "rejected": []}, r"^d\.jsonl:3: chosen does not end with a message of the assistant: end it"),
        (
            {"chosen": say("a", "b"), "rejected": say("x", "b")},
            r"^d\.jsonl:3: chosen and rejected differ before their last message: let them differ in that alone",
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


def test_pairs_are_shown_and_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    assert main(["show-data", "--task=preferences", f"--data={path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["completions"] == ["b", "c"]
