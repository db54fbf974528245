"""The bodies of answers in JSON Schema."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
NULL: Schema = {"type": "null"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}


def describe(optional: Schema | None = None, /, **required: Schema) -> Schema:
    """An object that has the required fields, may have the optional ones, and has no others."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def list_of(items: Schema) -> Schema:
    """A list of what a schema describes."""
    return {"type": "array", "items": items}


def or_null(schema: Schema) -> Schema:
    """What a schema describes, or null."""
    return {"anyOf": [schema, NULL]}


ERROR = describe(error=describe(message=TEXT, type=TEXT, param=TEXT_OR_NULL, code=TEXT_OR_NULL))
USAGE = describe(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)


def describe_answer(kind: str, choice: Schema) -> Schema:
    """An answer with generated text, in one piece.

    kind: its `object`.
    """
    return describe(id=TEXT, object={"const": kind}, created=COUNT, model=TEXT, choices=list_of(choice), usage=USAGE)


def describe_events(kind: str, choice: Schema) -> Schema:
    """The events of a stream: chunks, whose last may have no choice but the usage, or an error, and `[DONE]`.

    kind: the `object` of the chunks.
    """
    chunk = describe(
        {"usage": USAGE}, id=TEXT, object={"const": kind}, created=COUNT, model=TEXT, choices=list_of(choice)
    )
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": [chunk, ERROR]}}
    return {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}}}


REASON: Schema = {"enum": ["stop", "length"]}
REASON_OR_NULL: Schema = {"enum": ["stop", "length", None]}

LOGPROBS = describe(
    tokens=list_of(TEXT),
    token_logprobs=list_of(or_null(NUMBER)),
    top_logprobs=list_of(or_null({"type": "object", "additionalProperties": NUMBER})),
    text_offset=list_of(COUNT),
)
TEXTS: Schema = {"index": COUNT, "text": TEXT, "logprobs": or_null(LOGPROBS)}
COMPLETION = describe_answer("text_completion", describe(**TEXTS, finish_reason=REASON))
COMPLETION_EVENTS = describe_events("text_completion", describe(**TEXTS, finish_reason=REASON_OR_NULL))

TOKEN: Schema = {"token": TEXT, "logprob": NUMBER, "bytes": list_of({"type": "integer", "minimum": 0, "maximum": 255})}
TOKENS = list_of(describe(**TOKEN, top_logprobs=list_of(describe(**TOKEN))))
REPLY: Schema = {"index": COUNT, "logprobs": or_null(describe(content=TOKENS, refusal=NULL))}
ROLE: Schema = {"const": "assistant"}
MESSAGE = describe(role=ROLE, content=TEXT, refusal=NULL)
DELTA = describe({"role": ROLE, "content": TEXT})
CHAT = describe_answer("chat.completion", describe(**REPLY, message=MESSAGE, finish_reason=REASON))
CHAT_EVENTS = describe_events("chat.completion.chunk", describe(**REPLY, delta=DELTA, finish_reason=REASON_OR_NULL))

MODEL = describe(
    id=TEXT,
    object={"const": "model"},
    created=COUNT,
    owned_by=TEXT,
    max_model_len=COUNT,
    chat={"enum": ["messages", "passage", None]},
)
MODELS = describe(object={"const": "list"}, data=list_of(MODEL))
HEALTH = describe(status={"const": "ok"})
IDS = describe({"token_strs": list_of(TEXT)}, count=COUNT, max_model_len=COUNT, tokens=list_of(COUNT))
PROMPT = describe(prompt=TEXT)
TOKENIZER = describe(
    model=TEXT,
    tokenizer_class=TEXT,
    vocab_size=COUNT,
    eos_token=TEXT,
    eos_token_id=COUNT,
    model_max_length=COUNT,
)
