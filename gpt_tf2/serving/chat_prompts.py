"""The prompt for the next reply of a chat: in the model's chat template, or as CoQA asks about a passage."""

from collections.abc import Sequence
from typing import Any

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.data.encoding import encode_text
from gpt_tf2.errors import InputError
from gpt_tf2.generation.completions import Prompt
from gpt_tf2.generation.prompts import build_prompt
from gpt_tf2.serving.api_errors import ApiError
from gpt_tf2.serving.completion_job import explain_length
from gpt_tf2.tasks import coqa
from gpt_tf2.tasks.chats import Message, make_chat, read_messages
from gpt_tf2.tasks.task import Example, Turn, Unusable

REPLY = Message("assistant", "…", True)  # stands for the reply that the model writes


def build_chat(model: OpenedModel, learned_coqa: bool, value: Any) -> tuple[Prompt, tuple[str, ...]]:
    """The prompt for the reply to messages, and the texts that end the reply.

    Args:
        learned_coqa: whether the model answers questions about a passage, which is the system's message.
        value: the list of messages, as in OpenAI's API.

    Raises ApiError if the model has learned no chats, if a message is malformed, or if they leave no room for a reply.
    """
    if model.chat_template is None and not learned_coqa:
        message = "this model has no chat template, as it was not trained on chats: use /v1/completions"
        raise ApiError(message, "model", 404, "no_chat_template")
    stops: tuple[str, ...] = ()
    try:
        messages = read_messages(value, "messages")
        if not messages or messages[-1].role != "user":
            raise ApiError("messages: end them with one of the user, which is to be answered", "messages")
        if model.chat_template is None:
            example, stops = ask_about_passage(messages), (coqa.STOP,)
        else:  # replies of earlier turns are learned ones, so that each ends a turn
            said = [message._replace(is_learned=message.role == "assistant") for message in messages]
            example = make_chat([*said, REPLY], model.chat_template, "messages")
    except Unusable:
        raise ApiError("messages: one of the assistant is empty: leave it out", "messages") from None
    except InputError as error:
        raise ApiError(str(error), "messages") from None
    tokenizer, n_ctx = model.tokenizer, model.config.n_ctx
    answers = [turn.completions[0] for turn in example.turns[:-1]]
    passage = encode_text(example.passage, tokenizer)
    ids, is_whole = build_prompt(passage, example, answers, n_ctx - 1, tokenizer)
    if not is_whole:
        raise explain_length(f"{n_ctx} or more", n_ctx, "messages")
    return Prompt("", ids), stops


def ask_about_passage(messages: Sequence[Message]) -> Example:
    """Questions about a passage as CoQA's conversations have them. Raises ApiError if roles are out of order."""
    roles = [message.role for message in messages]
    expected = ["system", *["user", "assistant"] * len(roles)][: len(roles)]
    if roles != expected:
        order = (
            "the passage as a message of the system, then questions of the user and answers of the assistant by turns"
        )
        raise ApiError(f"messages: give {order}", "messages")
    passage, *spoken = [message.content for message in messages]
    questions, answers = spoken[::2], [*spoken[1::2], ""]
    turns = tuple(
        Turn(coqa.format_question(question), (f" {answer.strip()}",))
        for question, answer in zip(questions, answers, strict=True)
    )
    return Example("", passage, turns)
