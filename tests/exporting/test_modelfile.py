"""Ollama's Modelfile. Ollama itself is not run here."""

import dataclasses
from pathlib import Path

import pytest

from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.exporting.modelfile import write_modelfile
from gpt_tf2.tasks.chat_template import ChatTemplate
from helpers.workplace import OPENAI_TINY


@pytest.fixture(scope="module")
def model() -> OpenedModel:
    return open_model(OPENAI_TINY)


def test_a_model_of_texts_gets_the_prompt_as_it_stands(model: OpenedModel, tmp_path: Path) -> None:
    assert write_modelfile(tmp_path / "book.gguf", model).read_text() == (
        'FROM ./book.gguf\nPARAMETER num_ctx 64\nPARAMETER stop "<|endoftext|>"\nTEMPLATE """{{ .Prompt }}"""\n'
    )


def test_a_model_of_chats_gets_its_template(model: OpenedModel, tmp_path: Path) -> None:
    template = ChatTemplate(("", '"\n'), ("\nUser: ", ""), ("\nBot: ", "<|endoftext|>{{"))
    written = write_modelfile(tmp_path / "chat.gguf", dataclasses.replace(model, chat_template=template)).read_text()
    assert written.splitlines()[-1] == (
        'TEMPLATE """{{ range .Messages }}'
        '{{ if eq .Role "system" }}{{ .Content }}{{ "\\"\\n" }}'
        '{{ else if eq .Role "user" }}{{ "\\nUser: " }}{{ .Content }}'
        '{{ else if eq .Role "assistant" }}{{ "\\nBot: " }}{{ .Content }}{{ "<|endoftext|><|endoftext|>{{" }}'
        '{{ end }}{{ end }}{{ "\\nBot:" }}"""'
    )


def test_a_template_that_is_not_read_is_left_to_ollama(model: OpenedModel, tmp_path: Path) -> None:
    unread = dataclasses.replace(model, unread_template=tmp_path / "chat_template.jinja")
    assert "TEMPLATE" not in write_modelfile(tmp_path / "chat.gguf", unread).read_text()
