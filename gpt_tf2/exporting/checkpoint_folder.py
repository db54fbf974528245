"""A model in a folder of its own as a checkpoint with vocabulary: what the formats `hf` and `openai` share."""

from pathlib import Path

from gpt_tf2.checkpoints.chat_templates import JINJA, save_chat_template
from gpt_tf2.checkpoints.formats import write_checkpoint
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.checkpoints.read_tensors import ReadTensors
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.exporting.chat_jinja import find_chat_jinja
from gpt_tf2.storage.files import write_text
from gpt_tf2.storage.folders import new_folder


def write_folder(model: OpenedModel, output: Path, name: str) -> None:
    """Writes a new folder with a checkpoint, its vocabulary and its chat template.

    name: of the checkpoint, such as `model.safetensors`.

    Raises InputError if the folder is there already, or if a file cannot be written.
    """
    with new_folder(output) as folder:
        tensors, end = ReadTensors(model.checkpoint), model.tokenizer.end_of_text
        path = write_checkpoint(folder / name, model.config, tensors, end, model.settings_for(name))
        save_vocabulary(model.tokenizer, path)
        save_chat_template(model.chat_template, model.tokenizer, path, replaces=False)
        if model.unread_template and (jinja := find_chat_jinja(model)):
            write_text(folder / JINJA, jinja)
