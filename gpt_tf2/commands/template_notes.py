"""Lines on a chat template: what a user of it should know."""

import re

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tokenizer import END_OF_TEXT, Tokenizer

UNREAD = "not read, as it is more than a text around each message"
MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")  # as in <|im_start|>, <user>, </s> and [INST]


def note_unread(model: OpenedModel, use: str) -> list[str]:
    """A line if the default stands for the model's own template. use: what is done with it, such as `training`."""
    unread = model.unread_template
    return [f"{unread}: {UNREAD}: {use} with plain User: and Assistant:"] if unread else []


def note_markers(template: ChatTemplate, tokenizer: Tokenizer) -> list[str]:
    """A line if there are markers in a template that are no tokens of the vocabulary.

    Example:
        >>> template = ChatTemplate(("", ""), ("<user>", ""), ("<bot>", ""))  # doctest: +SKIP
        >>> note_markers(template, tokenizer)  # doctest: +SKIP
        ["chat template: several tokens each: <user> <bot> (--add_tokens '<user>,<bot>' makes each one token)"]
    """
    texts = [text for around in template for text in around]
    names = dict.fromkeys(name for text in texts for name in MARKER.findall(text) if name != END_OF_TEXT)
    missing = [name for name in names if tokenizer.token_id(name) is None]
    fix = f"--add_tokens '{','.join(missing)}' makes each one token"
    return [f"chat template: several tokens each: {' '.join(missing)} ({fix})"] if missing else []
