"""`chat`: a model replies to messages, or answers questions about a passage as it learned from CoQA."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.commands.chat_settings import ChatSettings
from gpt_tf2.commands.decoders import choose_max_new_tokens, find_model, load_decoder
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.commands.template_notes import UNREAD
from gpt_tf2.data.encoding import encode_text
from gpt_tf2.errors import InputError
from gpt_tf2.generation.prompts import build_prompt
from gpt_tf2.generation.samples import spawn_generators
from gpt_tf2.generation.scheduler import Request
from gpt_tf2.generation.scheduling import make_scheduler
from gpt_tf2.generation.text_stream import TextStream
from gpt_tf2.storage.text_files import ENCODING_FIX, check_encoding, read_text
from gpt_tf2.tasks import coqa
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tasks.chats import Message, make_chat
from gpt_tf2.tasks.task import Example, Turn

REPLY = Message("assistant", "…", True)  # stands for those that the model writes


def chat(settings: ChatSettings) -> None:
    """Reads messages from stdin, one per line, and prints the reply to each.

    Raises InputError if a setting or a file is bad, if the passage is empty, or if the model has learned no chats and
    there is no passage.
    """
    check_encoding(settings.encoding)
    passage = None
    if settings.passage is not None:
        if settings.system is not None:
            raise InputError("belongs to a chat without a `passage`: leave one of them out", "system", settings.system)
        passage = read_text(settings.passage, settings.encoding, encoding_fix=ENCODING_FIX).strip()
        if not passage:
            raise InputError("empty: give the text to ask about", "passage", settings.passage)
    for line in answer(settings, passage, read_messages("> " if passage is None else "Q: ")):
        print(line, end="", flush=True)


def read_messages(prompt: str) -> Iterator[str]:
    """Yields the lines of stdin that are not empty. On a terminal, prompts for each."""
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            print(prompt, end="", flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InputError(f"stdin: not UTF-8 at byte {error.start}: write it as UTF-8") from None
        if not line:
            return
        if line.strip():
            yield line.strip()


def answer(settings: ChatSettings, passage: str | None, messages: Iterable[str]) -> Iterator[str]:
    """Yields the reply to each message, with a line break. The earlier messages and replies are its context."""
    model, engine = find_model(settings)
    max_new_tokens = choose_max_new_tokens(settings, model)
    template = choose_template(model) if passage is None else None
    tokenizer, room = model.tokenizer, model.config.n_ctx - max_new_tokens
    decoder = load_decoder(settings, model, engine)
    sampler = settings.sampler()
    # One scheduler for all messages: where it keeps what is cached, what stands before a message is computed once.
    draft = settings.drafts(template is None)
    scheduler = make_scheduler(decoder, sampler, tokenizer.end_of_text, slots=1, draft=draft)
    (generator,) = spawn_generators(settings.seed, 1)
    asked: list[str] = []
    answers: list[str] = []
    is_complete = True
    for message in messages:
        asked.append(message)
        if template:
            example = make_example_of_chat(settings.system, asked, template)
        else:
            turns = tuple(Turn(coqa.format_question(question), ("",)) for question in asked)
            example = Example("", passage or "", turns)
        passage_ids = encode_text(example.passage, tokenizer)
        prompt, is_whole = build_prompt(passage_ids, example, answers, room, tokenizer)
        if is_complete and not is_whole:
            print_to_stderr(f"the conversation no longer fits into {room} tokens: dropping the oldest messages")
        is_complete = is_whole
        stream = TextStream(tokenizer, [] if template else [coqa.STOP])
        scheduler.run_all([Request(prompt, max_new_tokens, sampler, generator, stream.add)])
        answers.append(stream.finish())
        yield f"{answers[-1].strip()}\n"


def choose_template(model: OpenedModel) -> ChatTemplate:
    """The chat template of a model. Raises InputError if it has none."""
    if model.unread_template:
        fix = "fine-tune the model with a `chat_template`, or write its chat.json (docs/how-to.md)"
        raise InputError(f"{model.unread_template}: {UNREAD}: {fix}")
    if model.chat_template is None:
        fix = "give a `passage` to ask about, or fine-tune it on chats (`task` jsonl)"
        raise InputError(f"{model.path}: no chat.json beside it, so the model has learned no chats: {fix}")
    return model.chat_template


def make_example_of_chat(system: str | None, asked: Sequence[str], template: ChatTemplate) -> Example:
    """A chat in which a user's messages are answered, in a template."""
    told = [Message("system", system, False)] if system else []
    spoken = [message for text in asked for message in (Message("user", text, False), REPLY)]
    return make_chat([*told, *spoken], template, "chat")
