"""The files of a chat template beside a checkpoint."""

from pathlib import Path

from gpt_tf2.checkpoints.chat_templates import save_chat_template
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.data.encoding import encode_text
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE
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
