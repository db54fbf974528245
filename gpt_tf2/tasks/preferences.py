"""The task `preferences`: a prompt with two completions, the first of which is preferred, one JSON object per line."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpt_tf2.errors import InputError
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tasks.chats import (
    OPENAI,
    SHAREGPT,
    Message,
    add_system,
    check_no_system,
    make_chat,
    read_message,
    read_messages,
)
from gpt_tf2.tasks.json_lines import SPLITS as SPLITS
from gpt_tf2.tasks.json_lines import get_text, parse_line
from gpt_tf2.tasks.jsonl import Item, read_instruction
from gpt_tf2.tasks.jsonl import items as items
from gpt_tf2.tasks.lookup import make_no_predictions
from gpt_tf2.tasks.task import Example, Turn, Unusable

READS = ("encoding", "chat_template")
STOP = ""
NAMES = None
PREFERS = True
SUFFIX = ".jsonl"
write = score = make_no_predictions


def example(item: Item) -> Example:
    """The pair on a line; see `to_example`."""
    line, template = item
    return to_example(parse_line(line), line.name, template)


def to_example(value: Mapping[str, Any], name: str, template: ChatTemplate) -> Example:
    """A prompt with the chosen and the rejected completion: texts, or lists of messages.

    The messages are the reply, or, of a prompt that is a text or missing, whole chats that differ in their last reply.
    Also read are LLaMA-Factory's forms: ShareGPT's `conversations` with a message each, and Alpaca's `instruction`.

    Raises InputError, naming the line, if something is missing or malformed. Raises Unusable if the completions are
    equal, or one is empty.
    """
    pair = dict(value)
    for key in ("chosen", "rejected"):
        if isinstance(pair.get("prompt"), list) and isinstance(pair.get(key), str):
            fix = f'write {key} as [{{"role": "assistant", "content": …}}]'
            raise InputError(f"{name}: {key} is a text, but the prompt a list: {fix}")
    if isinstance(pair.get("chosen"), list | Mapping) or is_alpaca(pair):
        chosen, rejected = (read_reply(pair, key, template, name) for key in ("chosen", "rejected"))
        if (chosen.passage, chosen.turns[0].prompt) != (rejected.passage, rejected.turns[0].prompt):
            message = "chosen and rejected differ before their last message: let them differ in that alone"
            raise InputError(f"{name}: {message}")
        passage, prompt = chosen.passage, chosen.turns[0].prompt
        completions = chosen.turns[0].completions + rejected.turns[0].completions
    else:
        check_no_system(pair, name)
        passage, prompt = "", get_text(pair, "prompt", name)
        completions = get_text(pair, "chosen", name), get_text(pair, "rejected", name)
    if completions[0] == completions[1]:
        raise Unusable("the chosen and the rejected completion are equal", name)
    return Example(name, passage, (Turn(prompt, completions),))


def read_reply(pair: dict[str, Any], key: str, template: ChatTemplate, name: str) -> Example:
    """The chat that ends with the chosen or the rejected reply, its last; the others are not learned."""
    whole = add_system(read_whole(pair, key, name), pair, name)
    *before, last = whole or [Message("", "", False)]
    if last.role != "assistant":
        raise InputError(f"{name}: {key} does not end with a message of the assistant: end it with the reply")
    chat = [*(message._replace(is_learned=False) for message in before), last._replace(is_learned=True)]
    return make_chat(chat, template, name)


def is_alpaca(pair: Mapping[str, Any]) -> bool:
    """Whether a line has Alpaca's form, whose completions are texts, but replies in a chat."""
    return "instruction" in pair and "prompt" not in pair and isinstance(pair.get("chosen"), str)


def read_whole(pair: dict[str, Any], key: str, name: str) -> list[Message]:
    """All messages of the chosen or the rejected chat, but for a system's message beside them."""
    reply = pair.get(key)
    if isinstance(reply, Mapping):
        chat, keys = ("messages", OPENAI) if "messages" in pair else ("conversations", SHAREGPT)
        return [*read_messages(pair.get(chat), f"{name}: {chat}", keys), read_message(reply, f"{name}: {key}", keys)]
    if is_alpaca(pair):
        return [*read_instruction(pair, name), Message("assistant", get_text(pair, key, name), True)]
    replies = read_messages(reply, f"{name}: {key}")
    return [*read_prompt(pair, key, replies, name), *replies]


def read_prompt(pair: Mapping[str, Any], key: str, replies: Sequence[Message], name: str) -> list[Message]:
    """The messages of the prompt that are not among the chosen or the rejected ones: a text is the user's message."""
    prompt = pair.get("prompt")
    if isinstance(prompt, list):
        return read_messages(prompt, f"{name}: prompt")
    if prompt is None or not replies or replies[0].role != "assistant":  # a whole chat, as UltraFeedback's
        return []
    if len(replies) > 1:
        fix = "let it hold the reply alone, or the whole chat"
        raise InputError(f"{name}: {key} begins with the assistant's message, and more follow: {fix}")
    return [Message("user", get_text(pair, "prompt", name), False)]
