"""The chat template: the text around the messages of a chat. It is kept with a model that was trained on chats."""

import json
from pathlib import Path
from typing import NamedTuple

from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import read_json
from gpt_tf2.vocabularies.byte_level import END_OF_TEXT

FILE = "chat.json"  # beside a model, as its vocabulary is
Around = tuple[str, str]  # text before and after the content of a message


class ChatTemplate(NamedTuple):
    """The text around the messages of each role.

    The end-of-text token ends a reply of the assistant; what stands after it in the template begins the next prompt.
    """

    system: Around
    user: Around
    assistant: Around


DEFAULT_TEMPLATE = ChatTemplate(system=("", "\n"), user=("\nUser: ", ""), assistant=("\nAssistant: ", ""))


def read_template(path: str | Path) -> ChatTemplate:
    """The template in a JSON file: {"system": ["", "\\n"], "user": [before, after], "assistant": [before, after]}.

    Raises InputError, naming the file, if it cannot be read, or is something else.
    """
    content = read_json(path)
    roles = ChatTemplate._fields
    if not isinstance(content, dict) or sorted(content) != sorted(roles):
        raise InputError(f"{path}: not an object of {', '.join(roles)}: write {format_template(DEFAULT_TEMPLATE)}")
    for role in roles:
        around = content[role]
        if not isinstance(around, list) or len(around) != 2 or not all(isinstance(text, str) for text in around):
            raise InputError(f"{path}: {role} is not a list of two texts: write what stands before and after a message")
    if not content["assistant"][0].strip():
        raise InputError(f"{path}: assistant begins with no text: write what a reply shall follow, such as Assistant:")
    return ChatTemplate(*(tuple(content[role]) for role in roles))


def format_template(template: ChatTemplate) -> str:
    """The JSON text that `read_template` reads."""
    return json.dumps(template._asdict(), ensure_ascii=False)


def to_jinja(template: ChatTemplate, end: str, written: str) -> str:
    """The template as transformers has them: what its `apply_chat_template` makes is what the model was trained on.

    Args:
        end: the name of the token that ends a text.
        written: the name of the token that `<|endoftext|>` in the template stands for.
    """

    def quote(text: str) -> str:
        return json.dumps(text.replace(END_OF_TEXT, written), ensure_ascii=False)

    rendered = {"system": template.system, "user": template.user}
    rendered["assistant"] = template.assistant[0], end + template.assistant[1]
    around = ", ".join(
        f"{quote(role)}: [{quote(before)}, {quote(after)}]" for role, (before, after) in rendered.items()
    )
    message = 'around[message["role"]][0] + message["content"] + around[message["role"]][1]'
    opening, _ = split_opening(template.assistant[0])
    return (
        f"{{% set around = {{{around}}} %}}{{% for message in messages %}}{{{{ {message} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {quote(opening)} }}}}{{% endif %}}"
    )


def split_opening(before: str) -> tuple[str, str]:
    """The text before a message without the spaces at its end, and these: they belong to the message's first word."""
    opening = before.rstrip(" ")
    return opening, before[len(opening) :]
