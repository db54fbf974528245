"""The API in OpenAPI, from the same fields that requests are read by."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from gpt_tf2.serving.fields import describe_request
from gpt_tf2.serving.openai_requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from gpt_tf2.serving.response_schemas import (
    CHAT,
    CHAT_EVENTS,
    COMPLETION,
    COMPLETION_EVENTS,
    ERROR,
    HEALTH,
    IDS,
    MODEL,
    MODELS,
    PROMPT,
    TEXT,
    TOKENIZER,
)


def describe_api(models: Sequence[str]) -> dict[str, Any]:
    """The document that `/openapi.json` answers.

    models: the names of what is served.
    """
    name = {"in": "path", "name": "name", "required": True, "schema": {"enum": [*models]}}
    of_model = {"in": "query", "name": "model", "required": len(models) > 1, "schema": {"enum": [*models]}}
    paths = {
        "/v1/completions": {
            "post": takes(CompletionRequest, models, "Continue texts.", answers(COMPLETION, events=COMPLETION_EVENTS))
        },
        "/v1/chat/completions": {
            "post": takes(ChatRequest, models, "Reply to a chat.", answers(CHAT, events=CHAT_EVENTS))
        },
        "/v1/models": {"get": asks("List the models.", answers(MODELS))},
        "/v1/models/{name}": {"get": asks("Describe a model.", answers(MODEL), name)},
        "/health": {"get": asks("Say that the server runs.", answers(HEALTH)) | {"security": []}},
        "/metrics": {"get": asks("Report figures for Prometheus.", answers(TEXT, "text/plain"))},
        "/tokenize": {"post": takes(TokenizeRequest, models, "Split a text into tokens.", answers(IDS))},
        "/detokenize": {"post": takes(DetokenizeRequest, models, "Join tokens to a text.", answers(PROMPT))},
        "/tokenizer_info": {"get": asks("Describe a model's vocabulary.", answers(TOKENIZER), of_model)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "gpt-tf2", "version": importlib.metadata.version("gpt-tf2")},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def asks(summary: str, responses: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    """An operation without a body."""
    return {"summary": summary, "parameters": [*parameters], "responses": responses}


def takes(request: type, models: Sequence[str], summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    """An operation with a JSON body, whose `model` is one of the models, and required where there are several."""
    body, several = describe_request(request), len(models) > 1
    body["properties"]["model"] = {
        "enum": [*models] if several else [*models, None],
        "description": body["properties"]["model"]["description"],
    }
    if several:
        body["required"] = ["model", *body.get("required", [])]
    content = {"application/json": {"schema": body}}
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": responses}


def answers(
    schema: dict[str, Any], media_type: str = "application/json", events: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The responses of an operation: the one it is for, and errors.

    events: each event of the stream, where the answer may be one.
    """
    content = {media_type: {"schema": schema}} | ({"text/event-stream": {"schema": events}} if events else {})
    error = {"description": "what is wrong", "content": {"application/json": {"schema": ERROR}}}
    return {"200": {"description": "the answer", "content": content}, "4XX": error, "5XX": error}
