"""`push`: a model to the Hugging Face Hub, in transformers' format and with a card."""

import dataclasses
import re
import shutil
import tempfile
from pathlib import Path

from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.commands.find_model import find_model_and_base
from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.commands.model_settings import BASE, MODEL, OFFLINE
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.commands.training_facts import read_facts
from gpt_tf2.errors import InputError
from gpt_tf2.exporting import hf_folder
from gpt_tf2.exporting.hub_upload import check_access, upload
from gpt_tf2.exporting.model_card import CARD, make_card
from gpt_tf2.storage.files import write_text


@dataclasses.dataclass(frozen=True)
class PushSettings:
    """The settings of `push`.

    Raises InputError for a value that is out of range.
    """

    model: str = flag(dataclasses.MISSING, MODEL)
    repository: str = flag(dataclasses.MISSING, "where to put it: owner/name", metavar="OWNER/NAME")
    public: bool = flag(False, "let everyone read a new repository, not you alone", kind=bool)
    license: str | None = flag(None, "the license that the card names, such as mit (none)", metavar="NAME")
    token: str | None = flag(None, "a token that may write (HF_TOKEN, or that of hf auth login)", metavar="TOKEN")
    base: str | None = flag(None, **BASE, metavar="MODEL")
    offline: bool = flag(False, **OFFLINE)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", self.repository):
            raise InputError("use owner/name", "repository", self.repository)
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise InputError("use a short name, such as mit or apache-2.0", "license", self.license)


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
