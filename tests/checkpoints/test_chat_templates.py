"""The files of a chat template beside a checkpoint."""

import json
from pathlib import Path

import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.chat_templates import save_chat_template
from gpt_tf2.checkpoints.jinja_templates import parse_jinja, read_token_names
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.commands.chat import choose_template
from gpt_tf2.data.encoding import encode_text
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, ChatTemplate, to_jinja
from gpt_tf2.tasks.chats import Message, make_chat
from gpt_tf2.tokenizer import Tokenizer


def test_transformers_asks_with_the_ids_that_the_model_was_trained_on(workplace: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    save_vocabulary(tokenizer, Path("hf/model.safetensors"))
    save_chat_template(DEFAULT_TEMPLATE, tokenizer, Path("hf/model.safetensors"), replaces=False)
    chat = [("system", "Be brief."), ("user", "Who?"), ("assistant", "A lamp."), ("user", "Where?")]
    theirs = AutoTokenizer.from_pretrained("hf")
    asked = theirs.apply_chat_template(
        [{"role": role, "content": content} for role, content in chat], add_generation_prompt=True, return_dict=False
    )
    messages = [Message(role, content, role == "assistant") for role, content in [*chat, ("assistant", "…")]]
    example = make_chat(messages, DEFAULT_TEMPLATE, "chat")
    spans = [example.passage, *(text for turn in example.turns for text in (turn.prompt, turn.completions[0]))][:-1]
    assert asked == [id for span in spans for id in encode_text(span, tokenizer)]


def test_a_template_goes_with_the_checkpoint_that_had_it_but_not_one_of_the_users(workplace: Path) -> None:
    tokenizer = Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    path, files = Path("hf/model.safetensors"), [Path("hf/chat.json"), Path("hf/chat_template.jinja")]
    save_chat_template(DEFAULT_TEMPLATE, tokenizer, path, replaces=False)
    save_chat_template(None, tokenizer, path, replaces=False)
    assert all(file.is_file() for file in files)
    save_chat_template(None, tokenizer, path, replaces=True)
    assert not any(file.exists() for file in files)
    files[0].write_text('{"system": ["", ""], "user": ["Q: ", ""], "assistant": ["A: ", ""]}')
    save_chat_template(None, tokenizer, path, replaces=True)
    assert files[0].is_file()


def around(start: str, end: str) -> ChatTemplate:
    """A template whose messages begin with their roles."""
    before = [f"{start}{role}\n" for role in ChatTemplate._fields]
    return ChatTemplate((before[0], end), (before[1], end), (before[2], "\n"))


END = "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("jinja", "template"),
    [
        (CHATML, around("<|im_start|>", f"{END}\n")),
        (CHATML.replace("'<|im_end|>'", "eos_token"), around("<|im_start|>", f"{END}\n")),
        (to_jinja(DEFAULT_TEMPLATE, END, END), DEFAULT_TEMPLATE),
        (to_jinja(around("[", "]"), END, END), around("[", "]")),
        (CHATML.replace("+", "~"), around("<|im_start|>", f"{END}\n")),
        (CHATML.replace("+ message['role'] +", "+ '%s' % message['role'] +"), around("<|im_start|>", f"{END}\n")),
        ("{% if messages[-1]['role'] == 'tool' %}?{% endif %}" + CHATML, around("<|im_start|>", f"{END}\n")),
        (CHATML.replace("['content']", "['content'] | trim"), None),
        (CHATML.replace("<|im_end|>", "</s>"), None),  # a reply does not end with the end of text
        ("{{ bos_token }}" + CHATML, None),
        ("{{ 'Be brief.' if messages[0]['role'] != 'system' }}" + CHATML, None),
        ("{% for", None),
        ("{{ raise_exception('no') }}", None),
        ("{{ ''.__class__.__mro__ }}" + CHATML, None),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}" + CHATML, None),
        ("{% for i in messages %}{% for j in messages %}{% endfor %}{% endfor %}" + CHATML, None),
        ("{% set x = '" + "x" * 999 + "' %}" + "{% set x = x + x %}" * 60 + CHATML, None),
        ("{% set x = 'xxx' %}" + "{% set x = x ~ x %}" * 60 + CHATML, None),
        ("{% set x = messages %}" + "{% set x = x + x %}" * 60 + CHATML, None),
        ("{% set x = '" + "x" * 999 + "' %}{% for m in messages %}" + "{{ x }}" * 2000 + "{% endfor %}", None),
        ("{% set x = '%999999999s' % 'x' %}" + CHATML, None),
        ("{% set x = 'x' * 999999999 %}" + CHATML, None),
        ("{% macro f() %}{{ f() }}{% endmacro %}" + CHATML, None),
        ("{{ messages | tojson(999999999) }}" + CHATML, None),
        ("{# " + "x" * 20_000 + " #}" + CHATML, None),
    ],
)
def test_a_template_of_transformers_is_read_if_it_is_a_text_around_each_message(
    jinja: str, template: ChatTemplate | None, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": END}}))
    assert parse_jinja(jinja, read_token_names(tmp_path), END) == template


def test_a_model_without_chat_json_has_its_template_of_transformers(workplace: Path) -> None:
    folder = Path("models/tiny")
    tokenizer = Tokenizer(folder / "encoder.json", folder / "vocab.bpe")
    save_chat_template(DEFAULT_TEMPLATE, tokenizer, folder / "model.safetensors", replaces=False)
    (folder / "chat.json").unlink()
    assert open_model(folder).chat_template == DEFAULT_TEMPLATE
    (folder / "chat_template.jinja").unlink()
    several = [{"name": "rag", "template": "{{"}, {"name": "default", "template": "{{ messages }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    model = open_model(folder)
    assert model.chat_template is None and model.unread_template == folder / "tokenizer_config.json"
    with pytest.raises(InputError, match=r"^models/tiny/tokenizer_config.json: not read, .* a chat_template, or"):
        choose_template(model)
