"""`push`: a model to the Hugging Face Hub, in transformers' format and with a card."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.commands.find_model import find_model_and_base
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.commands.push_settings import PushSettings
from gpt_tf2.commands.training_facts import read_facts
from gpt_tf2.exporting import hf_folder
from gpt_tf2.exporting.hub_upload import check_access, upload
from gpt_tf2.exporting.model_card import CARD, make_card
from gpt_tf2.storage.files import write_text


def push(settings: PushSettings) -> str:
    """Writes a model to a temporary folder, uploads it in one commit, and returns its address.

    Raises InputError if the model is bad, or if the hub refuses it.
    """
    check_access(settings.repository, settings.public, settings.token)  # now, not after minutes of writing
    path, base = find_model_and_base(settings.model, settings.base, settings.offline)
    model = open_model(path, base=base)
    if model.remark:
        print_to_stderr(model.remark)
    facts = read_facts(model.path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        hf_folder.write(model, folder, "float32")
        model.check_unchanged()
        if facts.curve:
            shutil.copy(facts.curve, folder / "loss.png")
            facts = dataclasses.replace(facts, curve=folder / "loss.png")
        is_chat = bool(model.chat_template or model.unread_template)
        card = make_card(settings.repository, model.config, is_chat, settings.license, facts)
        write_text(folder / CARD, card)
        return upload(folder, settings.repository, settings.public, settings.token, print_to_stderr)


def print_push(settings: PushSettings) -> None:
    """Pushes, and prints the address."""
    print(push(settings))
