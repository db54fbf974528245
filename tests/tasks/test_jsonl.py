"""The task `jsonl`: every form of a line, what is refused, and the tokens that are learned of each."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.cli import main
from gpt_tf2.data.encoding import encode_text
from gpt_tf2.data.packing import PackedExamples
from gpt_tf2.data.prepared import Tokens, prepare_in_memory
from gpt_tf2.errors import InputError
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, ChatTemplate, format_template, read_template
from gpt_tf2.tasks.jsonl import check, score, to_example, write
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import ChatText, Example, Prediction, Unusable
from gpt_tf2.tokenizer import Tokenizer
from helpers.workplace import OPENAI_TINY

END = "<|endoftext|>"
USER, BOT, SYSTEM = (
    {"role": role, "content": content}
    for role, content in [("user", "Hi"), ("assistant", "Hello there"), ("system", "Be brief.")]
)
CHATML = ChatTemplate(("<s>", "</s>\n"), ("<u>\n", "</u>\n"), ("<a>\n", "\n"))


def read(value: dict, template: ChatTemplate = DEFAULT_TEMPLATE) -> Example:
    return to_example(value, "d.jsonl:3", template)


def show(example: Example) -> str:
    """All of an example's text, completions in brackets."""
    return example.passage + "".join(f"{turn.prompt}[{turn.completions[0]}]" for turn in example.turns)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"prompt": "1 + 1 =", "completion": " 2"}, "1 + 1 =[ 2]"),
        ({"prompt": "", "completion": "2", "id": 7}, "[2]"),
        ({"prompt": "a", "completion": "2", "label": "sum"}, "a[2]"),
        ({"text": "Once", "label": True}, "[Once]"),
        ({"text": "Once\nupon a time"}, "[Once\nupon a time]"),
        ({"messages": [USER, BOT]}, "\nUser: Hi\nAssistant:[ Hello there]"),
        ({"messages": [SYSTEM, USER, BOT]}, "Be brief.\n\nUser: Hi\nAssistant:[ Hello there]"),
        (
            {"messages": [USER, BOT, USER, BOT], "prompt": "Hi"},
            f"\nUser: Hi\nAssistant:[ Hello there]{END}\nUser: Hi\nAssistant:[ Hello there]",
        ),
        # Messages of one role in a row stand one after another, each in its role's text.
        ({"messages": [USER, USER, BOT]}, "\nUser: Hi\nUser: Hi\nAssistant:[ Hello there]"),
        ({"messages": [USER, BOT, BOT]}, f"\nUser: Hi\nAssistant:[ Hello there]{END}\nAssistant:[ Hello there]"),
        ({"messages": [BOT, USER, BOT]}, f"\nAssistant:[ Hello there]{END}\nUser: Hi\nAssistant:[ Hello there]"),
        # UltraFeedback's lines have the chosen chat as messages too.
        (
            {"messages": [USER, BOT], "chosen": [USER, BOT], "rejected": [USER, BOT]},
            "\nUser: Hi\nAssistant:[ Hello there]",
        ),
        # Nothing is learned of what follows the last reply.
        ({"messages": [USER, BOT, USER]}, "\nUser: Hi\nAssistant:[ Hello there]"),
        # A reply of weight 0, OpenAI's word for it, is only shown.
        (
            {"messages": [USER, BOT | {"weight": 0}, USER, BOT | {"weight": 1}]},
            f"\nUser: Hi\nAssistant: Hello there{END}\nUser: Hi\nAssistant:[ Hello there]",
        ),
        ({"messages": [USER | {"role": "developer"}, BOT]}, "Hi\n\nAssistant:[ Hello there]"),
        (
            {"messages": [USER | {"content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]}, BOT]},
            "\nUser: Hi!\nAssistant:[ Hello there]",
        ),
        # TRL's pairs of messages: what is in the prompt is not learned.
        (
            {"prompt": [USER, BOT, USER], "completion": [BOT]},
            f"\nUser: Hi\nAssistant: Hello there{END}\nUser: Hi\nAssistant:[ Hello there]",
        ),
        # ShareGPT's
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "S"},
            "S\n\nUser: Hi\nAssistant:[ Hello]",
        ),
        # The system's message beside a chat, once if it is there twice
        ({"messages": [USER, BOT], "system": "S"}, "S\n\nUser: Hi\nAssistant:[ Hello there]"),
        ({"messages": [SYSTEM, USER, BOT], "system": "Be brief."}, "Be brief.\n\nUser: Hi\nAssistant:[ Hello there]"),
        ({"prompt": [USER], "completion": [BOT], "system": "S"}, "S\n\nUser: Hi\nAssistant:[ Hello there]"),
        ({"prompt": "1 + 1 =", "completion": " 2", "system": None}, "1 + 1 =[ 2]"),
        # Alpaca's
        ({"instruction": "Add", "input": "1 1", "output": "2"}, "\nUser: Add\n1 1\nAssistant:[ 2]"),
        ({"instruction": "Add", "input": "", "output": "2", "text": "…"}, "\nUser: Add\nAssistant:[ 2]"),
        ({"instruction": "Add", "output": "2", "history": []}, "\nUser: Add\nAssistant:[ 2]"),
        (
            {"instruction": "And 2?", "output": "3", "history": [["Add 1", "2"], ["Go", "on"]], "system": "S"},
            f"S\n\nUser: Add 1\nAssistant:[ 2]{END}\nUser: Go\nAssistant:[ on]{END}\nUser: And 2?\nAssistant:[ 3]",
        ),
    ],
)
def test_each_form_of_a_line_is_read(value: dict, text: str) -> None:
    assert show(read(value)) == text


def test_another_template_stands_around_the_messages() -> None:
    text = f"<s>Be brief.</s>\n<u>\nHi</u>\n<a>\n[Hello there]{END}\n<u>\nHi</u>\n<a>\n[Hello there]"
    assert show(read({"messages": [SYSTEM, USER, BOT, USER, BOT]}, CHATML)) == text


REFUSED: list[tuple[dict, str]] = [
    (
        {"question": "a", "answer": "b"},
        'd.jsonl:3: there is "question", "answer", but none of {"prompt", "completion"}',
    ),
    ({}, "d.jsonl:3: there is nothing, but none of"),
    ({"prompt": "a"}, 'd.jsonl:3: "completion" is missing, there is "prompt": add it, or rename what stands for it'),
    ({"completion": "a"}, 'd.jsonl:3: "prompt" is missing'),
    ({"prompt": "a", "completion": None}, 'd.jsonl:3: "completion" is null, not text'),
    ({"prompt": "a", "completion": "b", "system": "S"}, 'd.jsonl:3: "system" beside texts is not read: write lists of'),
    ({"messages": [USER, BOT], "system": 1}, 'd.jsonl:3: "system" is 1, not text'),
    ({"prompt": [USER], "completion": "a"}, "d.jsonl:3: completion: not a list: write [{"),
    ({"text": ["a"]}, 'd.jsonl:3: "text" is a list, not text'),
    (
        {"chosen": "a", "rejected": "b"},
        "d.jsonl:3: these are preferences, chosen and rejected: give task preferences, to",
    ),
    ({"prompt": [USER], "chosen": [BOT], "rejected": [BOT]}, "d.jsonl:3: these are preferences"),
    (
        {"prompt": "a", "completion": "b", "label": False},
        'd.jsonl:3: a "label" of true or false marks unpaired preferences, which are not read: keep only',
    ),
    ({"messages": [USER, BOT], "label": True}, 'd.jsonl:3: a "label" of true or false'),
    (
        {"instruction": "a", "output": "b", "history": [["c"]]},
        'd.jsonl:3: "history" is no list of pairs: write [["prompt", "reply"], …]',
    ),
    (
        {"instruction": "a", "output": "b", "history": [["c", "d"], ["e", None]]},
        'd.jsonl:3: history: turn 2: "reply" is null, not text',
    ),
    ({"messages": []}, "d.jsonl:3: no message of the assistant, so nothing to learn: end it with a reply"),
    ({"messages": [USER]}, "d.jsonl:3: no message of the assistant"),
    ({"messages": "Hi"}, 'd.jsonl:3: not a list: write [{"role": …, "content": …}, …]'),
    ({"messages": [USER, "Hi"]}, "d.jsonl:3: message 2 is not an object: write its role and content"),
    ({"messages": [USER, {"role": "assistant"}]}, 'd.jsonl:3: message 2: "content" is missing, there is "role"'),
    ({"messages": [USER, BOT | {"content": None}]}, 'd.jsonl:3: message 2: "content" is null, not text'),
    ({"messages": [{"from": "user"}]}, 'd.jsonl:3: message 1: "role" is missing, there is "from": add it, or rename'),
    ({"messages": [USER, SYSTEM, BOT]}, "d.jsonl:3: message 2 is the system's, after the chat has begun: put it first"),
    ({"messages": [USER, BOT | {"role": "bot"}]}, 'd.jsonl:3: message 2: "bot" is no role: use system, user and'),
    ({"messages": [USER, BOT | {"role": "tool"}]}, 'd.jsonl:3: message 2: "tool" calls tools, which is not read'),
    ({"messages": [USER, BOT | {"tool_calls": [{}]}]}, "d.jsonl:3: message 2: tool_calls is not read"),
    (
        {"messages": [USER | {"content": [{"type": "image_url"}]}, BOT]},
        "message 1: content has parts that are not text",
    ),
]


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_a_malformed_line_is_refused_with_its_place_and_the_fix(value: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(value)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("value", [{"prompt": "a", "completion": ""}, {"messages": [USER, BOT | {"content": " "}]}])
def test_an_empty_completion_is_skipped_by_its_name(value: dict) -> None:
    with pytest.raises(Unusable) as error:
        read(value)
    assert (error.value.reason, error.value.name) == ("a completion is empty", "d.jsonl:3")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")


def test_only_the_template_has_control_tokens(tokenizer: Tokenizer) -> None:
    tokenizer = tokenizer.with_added(["<u>", "<a>"])
    said = f"Hi{END}<u>"
    example = read({"messages": [message | {"content": said} for message in (SYSTEM, USER, BOT, USER, BOT)]}, CHATML)
    user, bot = tokenizer.token_id("<u>"), tokenizer.token_id("<a>")
    letters = tokenizer.encode(said, allow_added=False)
    assert not {user, tokenizer.end_of_text} & {*letters}
    line, after = tokenizer.encode("\n"), tokenizer.encode("</u>\n")
    asked = [user, *line, *letters, *after, bot, *line]
    assert encode_text(example.passage, tokenizer) == [*tokenizer.encode("<s>"), *letters, *tokenizer.encode("</s>\n")]
    assert encode_text(example.turns[0].prompt, tokenizer) == asked
    assert encode_text(example.turns[1].prompt, tokenizer) == [tokenizer.end_of_text, *line, *asked]
    for turn in example.turns:
        assert encode_text(turn.completions[0], tokenizer) == letters
    # The prompt of a pair may name an added token, but not the end of text.
    ids = encode_text(read({"prompt": f"<u>{END}", "completion": "a"}).turns[0].prompt, tokenizer)
    assert ids[0] == user and tokenizer.end_of_text not in ids


def test_a_text_of_a_chat_keeps_its_parts_when_it_is_sent_to_a_process() -> None:
    text = ChatText("\nUser:", " Hi", "\nAssistant:")
    sent = pickle.loads(pickle.dumps(text))
    assert (sent, sent.parts) == (text, text.parts)


def prepare(values: Sequence[dict], tokenizer: Tokenizer, path: Path) -> Tokens:
    (path / "d.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    return prepare_in_memory(find_task("jsonl"), str(path / "d.jsonl"), "train", tokenizer, lambda done, total: None)


def mark(tokens: Tokens, tokenizer: Tokenizer, length: int = 64) -> list[list[tuple[str, bool]]]:
    """For each packed example its tokens, each with whether it is learned; the sequences are checked on the way."""
    data = PackedExamples(tokens, np.arange(len(tokens.shortest)), length, True, tokenizer.end_of_text)
    marked = []
    for batch in data.windows(4, 100):
        width = batch.tokens.shape[1]
        learned = np.zeros(batch.tokens.size, bool)
        learned[batch.picks[batch.weights > 0] + 1] = True  # a pick predicts the token after it
        np.testing.assert_array_equal(batch.targets, batch.tokens.ravel()[batch.picks + 1])
        for row in range(len(batch.tokens)):
            for segment in range(1, batch.segments[row].max() + 1):
                own = np.flatnonzero(batch.segments[row] == segment)
                np.testing.assert_array_equal(batch.positions[row, own], np.arange(len(own)))
                ids, taught = batch.tokens[row, own].tolist(), learned[row * width + own].tolist()
                marked.append([(tokenizer.decode([id]), is_taught) for id, is_taught in zip(ids, taught, strict=True)])
    return marked


def spell(tokenizer: Tokenizer, *spans: tuple[str, bool]) -> list[tuple[str, bool]]:
    """The tokens of spans encoded one by one, each with whether its span is learned."""
    return [
        (tokenizer.decode([id]), is_learned)
        for text, is_learned in spans
        for id in ([tokenizer.end_of_text] if text == END else tokenizer.encode(text))
    ]


def test_each_token_is_learned_or_not(tokenizer: Tokenizer, tmp_path: Path) -> None:
    values = [
        {"prompt": "The tide", "completion": " counted\nthe boats"},
        {"text": "Lanterns burned"},
        {"messages": [SYSTEM, USER, BOT, USER, BOT]},
        {"messages": [USER, BOT | {"weight": 0}, USER, BOT]},
    ]
    marked = mark(prepare(values, tokenizer, tmp_path), tokenizer)
    asked, reply = [("\nUser:", False), (" Hi", False), ("\nAssistant:", False)], [(" Hello there", True), (END, True)]
    expected = [
        spell(tokenizer, ("The tide", False), (" counted\nthe boats", True), (END, True)),
        # A text begins after the end of another, as a generated one does, so that its first token is learned, too.
        spell(tokenizer, (END, False), ("Lanterns burned", True), (END, True)),
        spell(tokenizer, ("Be brief.", False), ("\n", False), *asked, *reply, *asked, *reply),
        spell(tokenizer, *asked, (" Hello there", False), (END, False), *asked, *reply),
    ]
    assert sorted(marked) == sorted(expected)


def test_a_chat_that_is_too_long_ends_after_a_reply(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = prepare([{"messages": [USER, BOT] * 9}], tokenizer, tmp_path)
    (marked,) = mark(tokens, tokenizer)
    turn = spell(
        tokenizer, ("\nUser:", False), (" Hi", False), ("\nAssistant:", False), (" Hello there", True), (END, True)
    )
    assert len(turn) * 9 > 64 and marked == turn * (64 // len(turn))


def test_tokens_know_whether_there_are_chats_among_them(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pair = {"prompt": "a", "completion": "b"}
    assert not prepare([pair, {"text": "a"}], tokenizer, tmp_path).has_chats
    assert prepare([pair, {"messages": [USER, BOT]}], tokenizer, tmp_path).has_chats


def test_completions_are_scored_by_exact_match_and_f1() -> None:
    example = read({"messages": [USER, BOT, USER, BOT]})
    scores = score([Prediction(0, example, (" hello there!", " Hello, you"))], "", "test", None)
    assert scores == {"completions": {"all": {"em": 50.0, "f1": 75.0, "turns": 2}}}


def test_predictions_are_written_one_completion_per_line() -> None:
    lines = write([Prediction(0, read({"prompt": "é\u2028 =", "completion": " 2"}), (" 3\n",))]).split("\n")
    assert lines[1:] == [""]
    assert json.loads(lines[0]) == {
        "id": "d.jsonl:3",
        "turn": 1,
        "prompt": "é\u2028 =",
        "completion": " 3\n",
        "expected": " 2",
    }


def test_show_data_prints_chats_in_a_template(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": [USER, BOT]}) + "\n")
    (tmp_path / "chat.json").write_text(format_template(CHATML))
    command = ["show-data", "--task=jsonl", f"--data={tmp_path}"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"== {tmp_path}/train.jsonl:1\n\nUser: Hi\nAssistant:⟦ Hello there⟧\n\n"
    assert main([*command, f"--chat_template={tmp_path}/chat.json"]) == 0
    assert capsys.readouterr().out == f"== {tmp_path}/train.jsonl:1\n<u>\nHi</u>\n<a>\n⟦Hello there⟧\n\n"
    assert main(["show-data", "--task=text", f"--data={tmp_path}", f"--chat_template={tmp_path}/chat.json"]) == 2
    assert "--chat_template" in (message := capsys.readouterr().err) and "does not apply to --task text" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not an object of system, user, assistant: write {"),
        ('{"system": ["", ""], "user": ["", ""]}', "not an object of system, user, assistant"),
        ('{"system": "", "user": ["", ""], "assistant": ["A", ""]}', "system is not a list of two texts"),
        ('{"system": ["", ""], "user": ["", ""], "assistant": [" ", ""]}', "assistant begins with no text"),
        ("{", "not JSON"),
    ],
)
def test_a_malformed_template_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(content)
    with pytest.raises(InputError) as error:
        read_template(tmp_path / "chat.json")
    assert f"{tmp_path}/chat.json" in str(error.value) and message in str(error.value)


def test_a_template_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(format_template(CHATML))
    assert read_template(tmp_path / "chat.json") == CHATML


def test_references_beside_the_lines_own_completions_are_refused() -> None:
    check([], "d.jsonl", "test", None)
    with pytest.raises(InputError, match=r"whose lines have their own completions: leave it out") as error:
        check([], "d.jsonl", "test", "gold.jsonl")
    assert (error.value.setting, error.value.value) == ("references", "gold.jsonl")


def test_a_line_names_the_files_that_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("train.jsonl", "part2.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    assert main(["show-data", "--task=jsonl", f"--data={tmp_path}"]) == 0
    out, err = capsys.readouterr()
    assert out == f"== {tmp_path}/train.jsonl:1\n⟦train.jsonl⟧\n\n"
    assert err == f"{tmp_path}: not read, as no split is in their names: part2.jsonl\n"
