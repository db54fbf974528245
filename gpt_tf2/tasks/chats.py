"""Chats: from messages with roles to turns in a chat template."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gpt_tf2.errors import InputError
from gpt_tf2.tasks.chat_template import ChatTemplate, split_opening
from gpt_tf2.tasks.json_lines import get_text
from gpt_tf2.tasks.task import ChatText, Example, Turn, Unusable

# The names of roles, also in the forms of other tools → the template's.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

OPENAI, SHAREGPT = ("role", "content"), ("from", "value")  # the keys of a message's role and its content
Parts = list[str | None]  # of a `ChatText`


class Message(NamedTuple):
    """A message. role: a field of `ChatTemplate`. is_learned: whether it is a reply to learn."""

    role: str
    content: str
    is_learned: bool


def read_messages(value: Any, name: str, keys: tuple[str, str] = OPENAI) -> list[Message]:
    """The messages in a JSON list.

    Args:
        name: of the list, for errors.
        keys: under which a message has its role and its content.

    Raises InputError, naming the message, if one is malformed, or of a role that is not read.
    """
    if not isinstance(value, list):
        raise InputError(f"{name}: not a list: write [{{{json.dumps(keys[0])}: …, {json.dumps(keys[1])}: …}}, …]")
    return [read_message(message, f"{name}: message {number}", keys) for number, message in enumerate(value, start=1)]


def read_message(value: Any, name: str, keys: tuple[str, str]) -> Message:
    """One message; see `read_messages`."""
    if not isinstance(value, dict):
        raise InputError(f"{name} is not an object: write its {keys[0]} and {keys[1]}")
    for key in ("tool_calls", "function_call"):
        if value.get(key):
            raise InputError(f"{name}: {key} is not read: leave out chats with tools")
    role = get_text(value, keys[0], name)
    if role not in ROLES:
        kind = "calls tools, which is not read" if role in ("tool", "function") else "is no role"
        raise InputError(f'{name}: "{role}" {kind}: use system, user and assistant')
    parts = value.get(keys[1])
    if isinstance(parts, list):  # OpenAI's form for text and pictures
        texts = [part if isinstance(part, dict) else {} for part in parts]
        if any(part.get("type") != "text" for part in texts):
            raise InputError(f"{name}: {keys[1]} has parts that are not text: leave them out")
        content = "".join(get_text(part, "text", name) for part in texts)
    else:
        content = get_text(value, keys[1], name)
    return Message(ROLES[role], content, ROLES[role] == "assistant" and value.get("weight") != 0)


def add_system(messages: list[Message], value: Mapping[str, Any], name: str) -> list[Message]:
    """A chat that begins with the system's message that stands beside it, under `system`, if there is one.

    Example:
        >>> add_system([Message("user", "Hi", False)], {"system": "Be brief."}, "chat 1")[0]
        Message(role='system', content='Be brief.', is_learned=False)
    """
    beside = [Message("system", get_text(value, "system", name), False)] if value.get("system") else []
    return [*([] if beside == messages[:1] else beside), *messages]


def check_no_system(value: Mapping[str, Any], name: str) -> None:
    """Raises InputError if a system's message stands beside texts, which have no chat template to put it into."""
    if value.get("system"):
        raise InputError(
            f'{name}: "system" beside texts is not read: write lists of messages, or put it into the prompt'
        )


def make_chat(messages: Sequence[Message], template: ChatTemplate, name: str) -> Example:
    """A chat as an example: its first messages, if they are the system's, and a turn for each reply to learn.

    A turn's prompt has all messages since the turn before, each in its role's text. It ends before the spaces with
    which the template introduces a reply, because tokens begin with a space. What follows the last reply is left out.

    Raises InputError if there is no reply to learn, or if a message of the system comes later; Unusable for an empty
    reply.

    Example:
        >>> messages = [Message("user", "Hi", False), Message("assistant", "Hello", True)]
        >>> make_chat(messages, DEFAULT_TEMPLATE, "chat 1").turns[0]
        Turn(prompt='\\nUser: Hi\\nAssistant:', completions=(' Hello',))
    """
    spoken = next((number for number, message in enumerate(messages) if message.role != "system"), len(messages))
    passage: Parts = [""]
    for message in messages[:spoken]:
        append(passage, message, template)
    turns: list[Turn] = []
    prompt: Parts = [""]
    for number, message in enumerate(messages[spoken:], start=spoken + 1):
        if message.role == "system":
            raise InputError(f"{name}: message {number} is the system's, after the chat has begun: put it first")
        if not message.is_learned:
            append(prompt, message, template)
            continue
        if not message.content.strip():
            raise Unusable("a completion is empty", name)
        opening, spaces = split_opening(template.assistant[0])
        prompt.append(f"{prompt.pop()}{opening}")
        turns.append(Turn(ChatText(*prompt), (ChatText("", spaces + message.content),)))
        prompt = ["", None, template.assistant[1]]
    if not turns:
        raise InputError(f"{name}: no message of the assistant, so nothing to learn: end it with a reply")
    return Example(name, ChatText(*passage), tuple(turns), ChatText("", None, template.assistant[1]))


def append(parts: Parts, message: Message, template: ChatTemplate) -> None:
    """Append a message to the parts of a `ChatText`."""
    before, after = getattr(template, message.role)
    opening, spaces = split_opening(before)
    ending = ["", None] if message.role == "assistant" else []
    parts += [f"{parts.pop()}{opening}", spaces + message.content, *ending, after]
