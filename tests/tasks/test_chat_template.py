"""Chat templates as transformers has them."""

from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, ChatTemplate, to_jinja


def test_transformers_renders_a_chat_as_it_was_trained_on() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    odd = ChatTemplate(('<s "é">\\', "\n"), ("{{ 👋 ", " }}<|endoftext|>"), ("%} ", "<|endoftext|>\n"))
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who's there?"},
        {"role": "assistant", "content": 'A "lamp".'},
        {"role": "user", "content": "Where?"},
    ]
    for template, expected in [
        (DEFAULT_TEMPLATE, 'Be brief.\n\nUser: Who\'s there?\nAssistant: A "lamp".<eos>\nUser: Where?\nAssistant:'),
        (odd, '<s "é">\\Be brief.\n{{ 👋 Who\'s there? }}<eos>%} A "lamp".<eos><eos>\n{{ 👋 Where? }}<eos>%}'),
    ]:
        (text,), _ = render_jinja_template(
            [chat], chat_template=to_jinja(template, "<eos>", "<eos>"), add_generation_prompt=True
        )
        assert text == expected
