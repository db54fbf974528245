"""A model's chat template in the form that other programs read."""

from gpt_tf2.checkpoints.chat_templates import JINJA, make_files
from gpt_tf2.checkpoints.jinja_templates import find_jinja
from gpt_tf2.checkpoints.opened import OpenedModel


def find_chat_jinja(model: OpenedModel) -> str | None:
    """The Jinja text of a model's chat template, also of one that we do not read; None if it has none."""
    if model.chat_template:
        return make_files(model.chat_template, model.tokenizer)[JINJA]
    found = find_jinja(model.unread_template.parent) if model.unread_template else None
    return found[1] if found else None
