"""The API in OpenAPI, from the same fields that requests are read by."""

import importlib.metadata
from typing import Any

from gpt_tf2.serving.fields import describe_request
from gpt_tf2.serving.openai_requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
LOGPROBS = {
    "type": ["object", "null"],
    "properties": {
        "tokens": {"type": "array", "items": {"type": "string"}},
        "token_logprobs": {"type": "array", "items": {"type": "number"}},
        "top_logprobs": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "text_offset": {"type": "array", "items": {"type": "integer"}},
    },
}
CHOICE = {
    "type": "object",
    "required": ["index", "text", "finish_reason"],
    "properties": {
        "index": {"type": "integer"},
        "text": {"type": "string"},
        "logprobs": LOGPROBS,
        "finish_reason": {"enum": ["stop", "length", None]},
    },
}
COMPLETION = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "text_completion"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": CHOICE},
        "usage": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
}
OBJECT = {"type": "object"}
MODEL_OF_PATH = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
MODEL_OF_QUERY = {"name": "model", "in": "query", "required": False, "schema": {"type": "string"}}


def describe_api() -> dict[str, Any]:
    """The document that `/openapi.json` answers."""
    json, text = "application/json", "text/plain"
    completion = answers(json, COMPLETION)
    completion["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    paths = {
        "/v1/completions": {"post": takes(CompletionRequest, "Continue texts.", completion)},
        "/v1/chat/completions": {"post": takes(ChatRequest, "Reply to a chat.", answers(json, OBJECT))},
        "/v1/models": {"get": {"summary": "List the models.", "responses": answers(json, OBJECT)}},
        "/v1/models/{name}": {
            "get": {"summary": "Describe a model.", "parameters": [MODEL_OF_PATH], "responses": answers(json, OBJECT)}
        },
        "/health": {
            "get": {"summary": "Say that the server runs.", "responses": answers(json, OBJECT), "security": []}
        },
        "/metrics": {"get": {"summary": "Report figures for Prometheus.", "responses": answers(text, {})}},
        "/tokenize": {"post": takes(TokenizeRequest, "Split a text into tokens.", answers(json, OBJECT))},
        "/detokenize": {"post": takes(DetokenizeRequest, "Join tokens to a text.", answers(json, OBJECT))},
        "/tokenizer_info": {
            "get": {
                "summary": "Describe a model's vocabulary.",
                "parameters": [MODEL_OF_QUERY],
                "responses": answers(json, OBJECT),
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "gpt-tf2", "version": importlib.metadata.version("gpt-tf2")},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def takes(request: type, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    """An operation with a JSON body."""
    content = {"application/json": {"schema": describe_request(request)}}
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": responses}


def answers(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The responses of an operation: the one it is for, and errors."""
    error = {"description": "what is wrong", "content": {"application/json": {"schema": ERROR}}}
    return {
        "200": {"description": "the answer", "content": {media_type: {"schema": schema}}},
        "4XX": error,
        "5XX": error,
    }
