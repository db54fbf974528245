"""The application: its routes, and how errors are answered."""

import asyncio
import dataclasses
import functools
import time
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpt_tf2.serving.answers import Service, answer_chat, answer_completion
from gpt_tf2.serving.api_errors import ApiError
from gpt_tf2.serving.completion import name_token
from gpt_tf2.serving.completion_job import check_ids
from gpt_tf2.serving.connection import JSON, Reply, read_object
from gpt_tf2.serving.fields import read_request
from gpt_tf2.serving.metrics import CountRequests, Metrics
from gpt_tf2.serving.models import Models, Served
from gpt_tf2.serving.openai_requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from gpt_tf2.serving.page_files import FOLDER, page_routes
from gpt_tf2.serving.prompt_log import PromptLog
from gpt_tf2.serving.schema import describe_api
from gpt_tf2.serving.security import Guard

Asked = TypeVar("Asked")
SECONDS_FOR_BODY = 30.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may take.

    body: bytes. seconds: from its body's last byte to the last of the answer.
    """

    body: int = 1 << 22
    seconds: float = 300.0


class Api:
    """The functions that answer requests.

    Args:
        models: what is served.
        limits: of each request.
        log: gets what is asked and answered, if there is one.
    """

    def __init__(self, models: Models, limits: Limits, log: PromptLog | None = None):
        self.models, self.limits, self.metrics = models, limits, Metrics(models)
        self.service = Service(models, self.metrics, limits.seconds, log)
        self.started = int(time.time())

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        asked = await self._read(CompletionRequest, request)
        return Reply(functools.partial(answer_completion, self.service, asked))

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        asked = await self._read(ChatRequest, request)
        return Reply(functools.partial(answer_chat, self.service, asked))

    async def list_models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return JSON({"object": "list", "data": [self._describe(served) for served in self.models.served.values()]})

    async def show_model(self, request: Request) -> Response:
        """`GET /v1/models/NAME`."""
        return JSON(self._describe(self.models.find(request.path_params["name"])))

    async def health(self, request: Request) -> Response:
        """`GET /health`."""
        return JSON({"status": "ok"})

    async def show_metrics(self, request: Request) -> Response:
        """`GET /metrics`."""
        return Response(self.metrics.render(), media_type="text/plain; version=0.0.4")

    async def tokenize(self, request: Request) -> Response:
        """`POST /tokenize`."""
        asked = await self._read(TokenizeRequest, request)
        opened = self.models.find(asked.model).opened
        ids = await asyncio.to_thread(opened.tokenizer.encode, asked.prompt, True)
        body = {"count": len(ids), "max_model_len": opened.config.n_ctx, "tokens": ids}
        if asked.return_token_strs:
            body["token_strs"] = [name_token(opened.tokenizer, id) for id in ids]
        return JSON(body)

    async def detokenize(self, request: Request) -> Response:
        """`POST /detokenize`."""
        asked = await self._read(DetokenizeRequest, request)
        tokenizer = self.models.find(asked.model).opened.tokenizer
        check_ids(tokenizer, asked.tokens, "tokens")
        return JSON({"prompt": tokenizer.decode(asked.tokens)})

    async def show_tokenizer(self, request: Request) -> Response:
        """`GET /tokenizer_info?model=NAME`."""
        served = self.models.find(request.query_params.get("model"))
        tokenizer = served.opened.tokenizer
        return JSON(
            {
                "model": served.name,
                "tokenizer_class": "GPT2Tokenizer",
                "vocab_size": tokenizer.n_vocab,
                "eos_token": name_token(tokenizer, tokenizer.end_of_text),
                "eos_token_id": tokenizer.end_of_text,
                "model_max_length": served.opened.config.n_ctx,
            }
        )

    async def show_schema(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        return JSON(describe_api([*self.models.served]))

    async def _read(self, kind: type[Asked], request: Request) -> Asked:
        """A request of a kind out of the body."""
        body = await read_object(request, self.limits.body, SECONDS_FOR_BODY)
        return await asyncio.to_thread(read_request, kind, body)

    def _describe(self, served: Served) -> dict:
        """A model as OpenAI's API lists it."""
        length = served.opened.config.n_ctx
        return {
            "id": served.name,
            "object": "model",
            "created": self.started,
            "owned_by": "gpt-tf2",
            "max_model_len": length,
            "chat": served.chat,
        }


def make_app(
    models: Models,
    limits: Limits,
    api_key: str | None = None,
    local: bool = True,
    log: PromptLog | None = None,
) -> Starlette:
    """The application.

    Args:
        models: what is served. The caller closes them.
        api_key, local: who may ask; see `Guard`.
        log: gets what is asked and answered, if there is one. The caller closes it.
    """
    api = Api(models, limits, log)
    routes = [
        Route("/v1/completions", api.complete, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/models", api.list_models),
        Route("/v1/models/{name}", api.show_model),
        Route("/health", api.health),
        Route("/metrics", api.show_metrics),
        Route("/tokenize", api.tokenize, methods=["POST"]),
        Route("/detokenize", api.detokenize, methods=["POST"]),
        Route("/tokenizer_info", api.show_tokenizer),
        Route("/openapi.json", api.show_schema),
        *page_routes(FOLDER.iterdir()),
    ]
    paths = frozenset(route.path for route in routes)
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(CountRequests, metrics=api.metrics, paths=paths),
            Middleware(Guard, api_key=api_key, local=local and api_key is None),
        ],
        exception_handlers={ApiError: show_error, HTTPException: show_http_error, Exception: show_failure},
    )


async def show_error(request: Request, error: Exception) -> Response:
    """The answer to a request that has an error."""
    assert isinstance(error, ApiError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSON(error.to_json(), error.status, headers)


async def show_http_error(request: Request, error: Exception) -> Response:
    """The answer to a path or a method that there is not."""
    assert isinstance(error, HTTPException)
    fix = ": see /openapi.json for what is served; a client's base_url ends in /v1" if error.status_code == 404 else ""
    wrong = ApiError(f"{request.method} {request.url.path[:100]}: {error.detail}{fix}", None, error.status_code)
    return JSON(wrong.to_json(), error.status_code, error.headers)


async def show_failure(request: Request, error: Exception) -> Response:
    """The answer where this program has a mistake."""
    return JSON(ApiError("the server failed: see its messages", None, 500).to_json(), 500)
