"""What a run says of a chat template."""

import json
from pathlib import Path

import pytest

from gpt_tf2 import Tokenizer
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.template_notes import note_markers
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, ChatTemplate, format_template

MARKERS = ChatTemplate(("<s>", "<|endoftext|>"), ("<s>[U] < ", "\n"), ("[A]", "<b c>"))


def test_markers_that_are_no_tokens_are_named_once(workplace: Path) -> None:
    tokenizer = Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    line = "chat template: several tokens each: <s> [U] [A] (--add_tokens '<s>,[U],[A]' makes each one token)"
    assert note_markers(MARKERS, tokenizer) == [line]
    assert note_markers(MARKERS, tokenizer.with_added(["<s>", "[U]", "[A]"])) == note_markers(
        DEFAULT_TEMPLATE, tokenizer
    )
    assert note_markers(DEFAULT_TEMPLATE, tokenizer) == []


def test_a_run_says_so_and_that_the_bases_own_template_is_not_read(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    messages = [{"role": role, "content": "Hi"} for role in ("user", "assistant")]
    Path("chats.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    Path("markers.json").write_text(format_template(MARKERS))
    Path("models/tiny/chat_template.jinja").write_text("{{ messages }}")
    settings = {"data": "chats.jsonl", "task": "jsonl", "model": "tiny", "epochs": 1, "steps": 1}
    run_finetune(FinetuneSettings(**settings))
    unread = "models/tiny/chat_template.jinja: not read, as it is more than a text around each message: training with"
    out = capsys.readouterr().out
    assert out.count(unread) == 1 and "several tokens each" not in out
    run_finetune(FinetuneSettings(**settings, chat_template="markers.json"))
    out = capsys.readouterr().out
    assert out.count("several tokens each: <s> [U] [A]") == 1 and unread not in out
