"""The chat template that belongs to a checkpoint: how it is saved."""

import contextlib
from pathlib import Path

from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.jinja_templates import FILE as JINJA
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import write_text
from gpt_tf2.tasks.chat_template import FILE, ChatTemplate, format_template, read_template, to_jinja
from gpt_tf2.tokenizer import END_OF_TEXT, Tokenizer


def save_chat_template(template: ChatTemplate | None, tokenizer: Tokenizer, path: Path, replaces: bool) -> None:
    """Writes a chat template beside a saved checkpoint; without one, deletes that of the checkpoint that it replaced.

    Beside `.safetensors` it is also written for transformers.

    Args:
        tokenizer: the vocabulary of the checkpoint.
        replaces: whether a checkpoint was at the path before. If none was, or if a file is not as it is written here,
            it is the user's own and stays.
    """
    folder = companion_folder(path)
    if template:
        for name, content in make_files(template, tokenizer).items():
            if name == FILE or path.suffix == ".safetensors":
                write_text(folder / name, content)
    elif replaces and (folder / FILE).is_file():
        with contextlib.suppress(InputError):
            former = make_files(read_template(folder / FILE), tokenizer)
            if (folder / FILE).read_bytes() == former[FILE].encode():
                for name in former:
                    (folder / name).unlink(missing_ok=True)


def make_files(template: ChatTemplate, tokenizer: Tokenizer) -> dict[str, str]:
    """The contents of the files of a template, by their names."""
    end = tokenizer.decode([tokenizer.end_of_text])
    written = end if tokenizer.token_id(END_OF_TEXT) is None else END_OF_TEXT
    return {FILE: format_template(template) + "\n", JINJA: to_jinja(template, end, written)}
