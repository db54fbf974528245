"""Chat templates of transformers: found beside a model, and read if each is a text around each message."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt_tf2.storage.files import read_utf8
from gpt_tf2.storage.json_text import read_json
from gpt_tf2.tasks.chat_template import ChatTemplate, split_opening

FILE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
Chat = Sequence[tuple[str, str]]  # messages: role and content
Render = Callable[[Chat, bool], str]  # a chat, and whether the text that begins a reply follows it
WORDS = "Be brief.", "Who?", "A lamp."
CHATS: tuple[Chat, ...] = (
    [("user", " Who\n\n"), ("assistant", "\tA lamp.\n")],
    [("system", " Be <b>.\n"), ("user", "Who?"), ("assistant", " A lamp. "), ("user", ""), ("assistant", "'{{1}}'")],
    [(role, f" {turn}\n") for turn in range(3) for role in ("user", "assistant")],
)


def find_jinja(folder: Path) -> tuple[Path, str] | None:
    """The file and the text of the chat template that transformers would use; None if there is none.

    Raises InputError if a file cannot be read.
    """
    if (folder / FILE).is_file():
        return folder / FILE, read_utf8(folder / FILE)
    text = read_settings(folder).get("chat_template")
    if isinstance(text, list):  # of several the one called default
        text = next((one.get("template") for one in text if isinstance(one, dict) and one.get("name") == "default"), "")
    return (folder / SETTINGS, text) if isinstance(text, str) and text else None


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a tokenizer, empty if there are none."""
    values = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    return values if isinstance(values, dict) else {}


def parse_jinja(text: str, names: Mapping[str, Any], end: str) -> ChatTemplate | None:
    """The chat template that makes the same text of every chat; None if none does, or if it is no Jinja.

    Args:
        names: of special tokens, such as `eos_token`, which are variables in the template.
        end: the name of the token that ends a text.
    """
    try:
        render = compile_jinja(text, names)
        template = derive(render, end)
        is_same = template is not None and all(agrees(template, chat, render, end) for chat in CHATS)
    except Exception:  # whatever a program in a template may raise
        return None
    return template if is_same else None


def read_token_names(folder: Path) -> dict[str, Any]:
    """The names of special tokens, such as `eos_token`, which are variables in a template."""
    tokens = {name: value for name, value in read_settings(folder).items() if name.endswith("_token")}
    return {name: value.get("content") if isinstance(value, dict) else value for name, value in tokens.items()}


def compile_jinja(text: str, names: Mapping[str, Any]) -> Render:
    """A template as a function. names: its variables."""
    from gpt_tf2.checkpoints import jinja_limits  # few models need Jinja

    compiled = jinja_limits.LimitedEnvironment().from_string(text)
    unused = {"tools": None, "documents": None}

    def render(chat: Chat, opens: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in chat]
        variables = {**names, **unused, "messages": messages, "add_generation_prompt": opens}
        return jinja_limits.render(compiled, variables)

    return render


def derive(render: Render, end: str) -> ChatTemplate | None:
    """The texts that a template puts around a message of each role, if it does nothing else."""
    system, user, assistant = WORDS
    asked = render([("user", user)], False)
    answered = render([("user", user), ("assistant", assistant)], False).removeprefix(asked)
    told = render([("system", system), ("user", user)], False).removesuffix(asked)
    before, _, after = answered.partition(assistant)
    if not before.strip() or not after.startswith(end):
        return None
    around = {"system": told.partition(system)[::2], "user": asked.partition(user)[::2]}
    return ChatTemplate(**around, assistant=(before, after.removeprefix(end)))


def agrees(template: ChatTemplate, chat: Chat, render: Render, end: str) -> bool:
    """Whether both make the same text of a chat, and of the chat without its last reply."""

    def fill(messages: Chat) -> str:
        texts = [(getattr(template, role), content + end * (role == "assistant")) for role, content in messages]
        return "".join(f"{before}{content}{after}" for (before, after), content in texts)

    before = template.assistant[0]
    asked = [fill(chat[:-1]) + opening for opening in (before, split_opening(before)[0])]
    return fill(chat) == render(chat, False) and render(chat[:-1], True) in asked
