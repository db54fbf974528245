"""Answering with generated text: the job, its events, and the answer whole or as a stream."""

import asyncio
import contextlib
import dataclasses
import math
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import anyio
from starlette.types import Send

from gpt_tf2.generation.completions import Prompt
from gpt_tf2.serving.api_errors import ApiError
from gpt_tf2.serving.chat_prompts import build_chat
from gpt_tf2.serving.completion import Event, Finished
from gpt_tf2.serving.completion_job import make_job, read_prompts
from gpt_tf2.serving.connection import JSON, EventStream, Write
from gpt_tf2.serving.metrics import Metrics
from gpt_tf2.serving.models import RETRY_AFTER, Models, Served
from gpt_tf2.serving.openai_requests import ChatRequest, CompletionRequest
from gpt_tf2.serving.openai_responses import Answer, ChatAnswer, CompletionAnswer
from gpt_tf2.serving.prompt_log import PromptLog
from gpt_tf2.serving.worker import Worker

SECONDS_TO_SAY_SO = 1.0  # for the error that ends a stream, whose client may not be reading


@dataclasses.dataclass(frozen=True)
class Service:
    """What answers requests. seconds: until when one must be done. log: gets them, if there is one."""

    models: Models
    metrics: Metrics
    seconds: float
    log: PromptLog | None = None

    def record(self, asked: dict[str, Any], body: Answer) -> contextlib.AbstractContextManager[None]:
        """Logs a request once its answer is complete or cut off, where requests are logged."""
        return contextlib.nullcontext() if self.log is None else self.log.record(asked, body)


async def answer_completion(service: Service, asked: CompletionRequest, send: Send, write: Write) -> None:
    """Answers `POST /v1/completions`; see `answer`."""
    served = service.models.find(asked.model)
    prompts = await asyncio.to_thread(read_prompts, served.opened, asked)
    prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    answers = CompletionAnswer(served.name, asked.n * len(prompts), prompt_tokens, asked.logprobs is not None)
    with service.record({"prompts": [prompt.text for prompt in prompts]}, answers):
        await answer(service, served, asked, prompts, answers, send, write)


async def answer_chat(service: Service, asked: ChatRequest, send: Send, write: Write) -> None:
    """Answers `POST /v1/chat/completions`; see `answer`."""
    served = service.models.find(asked.model)
    prompt, stops = await asyncio.to_thread(build_chat, served.opened, served.learned_coqa, asked.messages)
    completion = asked.complete(prompt.ids, stops, served.opened.config.n_ctx)
    answers = ChatAnswer(served.name, asked.n, len(prompt.ids), asked.logprobs)
    with service.record({"messages": asked.messages}, answers):
        await answer(service, served, completion, [prompt], answers, send, write)


async def answer(
    service: Service,
    served: Served,
    asked: CompletionRequest,
    prompts: Sequence[Prompt],
    body: Answer,
    send: Send,
    write: Write,
) -> None:
    """Answers a request, whole or as a stream.

    Args:
        prompts: what is completed.
        body: makes the answer from the events.
        send, write: send messages, and a whole response.

    Raises ApiError if it cannot be answered and nothing was sent yet. Later, a stream ends with the error.
    """
    began, metrics, seconds = time.monotonic(), service.metrics, service.seconds
    stream = EventStream(send)
    first_text = math.inf
    try:
        with anyio.fail_after(seconds):
            async with (
                service.models.use(served) as worker,
                contextlib.aclosing(run(worker, served, asked, prompts)) as events,
            ):
                metrics.prompt_tokens.labels(served.name).inc(sum(len(prompt.ids) for prompt in prompts))
                async for event in events:
                    if first_text == math.inf:
                        first_text = time.monotonic() - began
                        metrics.first_piece.labels(served.name).observe(first_text)
                    chunk = body.add(event)
                    if isinstance(event, Finished):
                        metrics.completion_tokens.labels(served.name).inc(event.tokens)
                    if asked.stream:
                        await stream.write_json(chunk)
            if asked.stream:
                if asked.counts_usage:
                    await stream.write_json(body.last_chunk())
                await stream.write("[DONE]")
                await stream.end()
    except (TimeoutError, asyncio.CancelledError, ApiError) as problem:
        error = problem if isinstance(problem, ApiError) else explain_timeout(seconds, first_text < math.inf)
        if isinstance(problem, asyncio.CancelledError):  # the client has gone, or the server ends
            error = ApiError("the server is stopping: try again later", None, 503, "stopping", RETRY_AFTER)
        if not stream.started:
            raise error from None
        with anyio.move_on_after(SECONDS_TO_SAY_SO):
            await stream.write_json(error.to_json())
            await stream.end()
        return
    if not asked.stream:
        await write(JSON(body.whole()))


async def run(
    worker: Worker, served: Served, asked: CompletionRequest, prompts: Sequence[Prompt]
) -> AsyncGenerator[Event, None]:
    """Yields the events of a request until all of its completions are finished.

    If the iterator is closed before, what is left of the request leaves the model before its next step.
    """
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Event | Exception]()

    def hand_over(event: Event | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
            loop.call_soon_threadsafe(arrived.put_nowait, event)

    job = make_job(served.opened, asked, prompts, hand_over, hand_over)
    worker.submit(job)
    try:
        left = asked.n * len(prompts)
        while left:
            event = await arrived.get()
            if isinstance(event, Exception):
                raise explain_failure(event)
            left -= isinstance(event, Finished)
            yield event
    finally:
        worker.cancel(job)


def explain_timeout(seconds: float, began: bool) -> ApiError:
    """The error of a request that has taken too long, which another try helps only if it had to wait."""
    if began:
        return ApiError(f"not finished within {seconds:g} s: lower max_tokens or n", None, 400, "timeout")
    return ApiError(f"not begun within {seconds:g} s: try again later", None, 503, "timeout", RETRY_AFTER)


def explain_failure(error: Exception) -> ApiError:
    """The error of a request that the model failed to run. Its cause is for the server's owner only."""
    traceback.print_exception(error, file=sys.stderr)
    return ApiError("the model failed: see the server's messages", None, 500, "model_failed")
