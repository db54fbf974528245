"""`/v1/chat/completions` by OpenAI's own client: the same prompt and reply as in Python, and models without chats."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.tasks.chat_template import FILE, ChatTemplate, format_template
from helpers.serving import HTTP, open_served, serving

TEMPLATE = ChatTemplate(("T: ", "\n"), ("\nQ: ", ""), ("\nA: ", "!"))
CHAT = [
    {"role": "system", "content": "Be red."},
    {"role": "user", "content": "Hi <|endoftext|>"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
]


@pytest.fixture(scope="module")
def url(tiny: Path, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of three models: one trained on chats, one on CoQA, and one on neither."""
    folder = tmp_path_factory.mktemp("chat")
    paths = [Path(shutil.copytree(tiny, folder / name)) for name in ("chats", "answers", "text")]
    (paths[0] / FILE).write_text(format_template(TEMPLATE))
    (paths[1] / "run.toml").write_text('task = "coqa"\n')
    (paths[2] / "run.toml").write_text('task = "text"\n')
    with serving(open_served(*paths)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def encode_chat(lm: LanguageModel) -> list[int]:
    """The chat in the template. What somebody wrote is no special token; the end of text ends a reply."""
    system, question = ["T:", " Be red.", "\n"], ["\nQ:", " Hi <|endoftext|>", "\nA:", " Hello"]
    first = [id for text in (*system, *question) for id in lm.tokenizer.encode(text)]
    second = [id for text in ("!\nQ:", " Who?", "\nA:") for id in lm.tokenizer.encode(text)]
    return [*first, lm.tokenizer.end_of_text, *second]


def test_a_reply_is_the_completion_of_the_chat_in_the_template(client: openai.OpenAI, lm: LanguageModel) -> None:
    asked: dict[str, Any] = {"model": "chats", "max_tokens": 9, "seed": 4, "n": 2}
    reply = client.chat.completions.create(messages=CHAT, **asked)
    completion = client.completions.create(prompt=encode_chat(lm), **asked)
    assert [c.message.content for c in reply.choices] == [c.text.lstrip() for c in completion.choices]
    assert reply.usage == completion.usage and reply.object == "chat.completion"
    assert {choice.message.role for choice in reply.choices} == {"assistant"}
    longest = client.chat.completions.create(model="chats", messages=CHAT, seed=4, extra_body={"ignore_eos": True})
    assert longest.choices[0].finish_reason == "length"
    assert longest.usage and longest.usage.total_tokens == 64


def test_a_streamed_reply_is_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "chats", "messages": CHAT, "max_completion_tokens": 9, "seed": 4, "n": 2}
    asked |= {"logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert parts[0].delta.role == "assistant" and parts[-1].finish_reason == choice.finish_reason
        tokens = [token for part in parts if part.logprobs for token in part.logprobs.content or []]
        assert choice.logprobs and tokens == choice.logprobs.content and len(tokens) == 9
        text = b"".join(bytes(token.bytes or []) for token in tokens).decode(errors="replace")
        assert text.strip() == (choice.message.content or "").strip()
        assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_an_empty_reply_has_a_role_as_well(client: openai.OpenAI, lm: LanguageModel) -> None:
    asked: dict[str, Any] = {"model": "chats", "messages": CHAT, "logit_bias": {str(lm.tokenizer.end_of_text): 100}}
    (chunk,) = client.chat.completions.create(stream=True, **asked)
    (choice,) = chunk.choices
    assert (choice.delta.role, choice.delta.content, choice.finish_reason) == ("assistant", "", "stop")


def test_a_coqa_model_is_asked_about_the_passage_in_the_systems_message(
    client: openai.OpenAI, lm: LanguageModel
) -> None:
    said = ["The lantern is red.", "What color?", "red", "Whose?"]
    roles = ["system", "user", "assistant", "user"]
    messages: Any = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    asked: dict[str, Any] = {"model": "answers", "max_tokens": 9, "seed": 4}
    texts = [said[0], "\n Q: What color?\n A:", " red", "\n Q: Whose?\n A:"]
    prompt = [id for text in texts for id in lm.tokenizer.encode(text)]
    reply = client.chat.completions.create(messages=messages, **asked)
    completion = client.completions.create(prompt=prompt, stop="\n", **asked)
    assert reply.choices[0].message.content == completion.choices[0].text.lstrip()
    with pytest.raises(openai.BadRequestError, match="the passage as a message of the system"):
        client.chat.completions.create(messages=messages[1:], **asked)


def test_a_model_without_chats_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no chat template"):
        client.chat.completions.create(model="text", messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}, "messages"),
        ({"messages": [CHAT[1], {"role": "assistant", "content": ""}, CHAT[1]]}, "messages"),
        ({"messages": [{"role": "user", "content": "lantern " * 100}]}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_a_bad_chat_is_named(url: str, asked: dict[str, Any], param: str) -> None:
    answer = HTTP.post(f"{url}/v1/chat/completions", json={"model": "chats", "messages": CHAT} | asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
