"""Ollama's Modelfile of a GGUF file."""

import json
from pathlib import Path

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.storage.files import write_text
from gpt_tf2.tasks.chat_template import ChatTemplate, split_opening
from gpt_tf2.tokenizer import END_OF_TEXT


def write_modelfile(gguf: Path, model: OpenedModel) -> Path:
    """Writes `NAME.Modelfile` beside `NAME.gguf`, for `ollama create NAME -f NAME.Modelfile`. Returns its path.

    Raises InputError if it cannot be written.
    """
    path = gguf.with_suffix(".Modelfile")
    end = model.tokenizer.decode([model.tokenizer.end_of_text])
    lines = [f"FROM ./{gguf.name}", f"PARAMETER num_ctx {model.config.n_ctx}", f"PARAMETER stop {json.dumps(end)}"]
    if not model.unread_template:  # else Ollama shall use the one in the file
        template = format_chat(model.chat_template, end) if model.chat_template else "{{ .Prompt }}"
        lines.append(f'TEMPLATE """{template}"""')
    write_text(path, "\n".join([*lines, ""]))
    return path


def format_chat(template: ChatTemplate, end: str) -> str:
    """A chat template in Ollama's language, Go's: the same text as transformers' `apply_chat_template` makes.

    end: the name of the token that ends a text.
    """

    def quote(text: str) -> str:
        return f"{{{{ {json.dumps(text.replace(END_OF_TEXT, end), ensure_ascii=False)} }}}}" if text else ""

    around = {"system": template.system, "user": template.user}
    around["assistant"] = template.assistant[0], end + template.assistant[1]
    cases = [
        f'{{{{ {"else " * (number > 0)}if eq .Role "{role}" }}}}{quote(before)}{{{{ .Content }}}}{quote(after)}'
        for number, (role, (before, after)) in enumerate(around.items())
    ]
    opening, _ = split_opening(template.assistant[0])
    return "{{ range .Messages }}" + "".join(cases) + "{{ end }}{{ end }}" + quote(opening)
