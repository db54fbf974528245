"""Reading a request's body within limits, and answering as long as the client is there."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpt_tf2.errors import InputError
from gpt_tf2.serving.api_errors import ApiError
from gpt_tf2.storage.json_text import parse_json

Write = Callable[[Response], Awaitable[None]]


async def read_object(request: Request, most_bytes: int, seconds: float) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises ApiError if there is none, or if it is larger or slower than allowed.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError("send JSON, with the header Content-Type: application/json", status=415)
    too_large = ApiError(f"the body has more than {most_bytes:,} bytes: send less at a time", status=413)
    if int(request.headers.get("content-length", 0)) > most_bytes:  # the server has checked that it is a number
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(seconds):
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise too_large
    except TimeoutError:
        raise ApiError(f"the body did not arrive within {seconds:g} s", status=408) from None
    except ClientDisconnect:
        raise ApiError("the body was cut off") from None
    value = await asyncio.to_thread(parse_body, bytes(body))
    if not isinstance(value, dict):
        raise ApiError("the body is not a JSON object: send one")
    return value


def parse_body(body: bytes) -> Any:
    """The JSON value of a body. Raises ApiError if it is none."""
    try:
        return parse_json(body.decode(), "the body", "send a JSON object")
    except UnicodeDecodeError as error:
        raise ApiError(f"the body is not UTF-8 at byte {error.start}: send a JSON object") from None
    except InputError as error:
        raise ApiError(str(error)) from None


class JSON(Response):
    """A JSON body, in ASCII, so that no text is beyond it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dump(content).encode("ascii")


def dump(value: Any) -> str:
    """A value as JSON in ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


class Reply(Response):
    """An answer that takes a while. If the client goes away, it is cancelled.

    work: is called with the function that sends, and with one that sends a whole response.
    """

    def __init__(self, work: Callable[[Send, Write], Awaitable[None]]):
        self.work = work
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(response: Response) -> None:
            await response(scope, receive, send)

        await run_while_connected(receive, self.work(send, write))


async def run_while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Awaits the work, or cancels it once the client has gone, or the server ends, which the work may then say."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(wait_for_disconnect(receive))
    with contextlib.suppress(asyncio.CancelledError):  # the server ends
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    has_left = leaving.done()
    leaving.cancel()
    working.cancel()
    await asyncio.wait({working})
    if not working.cancelled() and not has_left:
        working.result()  # raises what the work has raised
    elif not working.cancelled():
        working.exception()  # nobody is there to be told


async def wait_for_disconnect(receive: Receive) -> None:
    """Waits until the client has gone. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """Server-sent events. The head of the answer goes out with the first of them.

    Attributes: started: whether it has.
    """

    def __init__(self, send: Send):
        self._send, self.started = send, False

    async def write(self, data: str) -> None:
        """Sends an event."""
        if not self.started:
            self.started = True
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),  # nginx would hold the events back
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        body = f"data: {data}\n\n".encode()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def write_json(self, value: Any) -> None:
        """Sends an event with a JSON value."""
        await self.write(dump(value))

    async def end(self) -> None:
        """Ends the answer."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
