"""Running the application: the address, signals, and the end."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from gpt_tf2.errors import InputError

SECONDS_TO_SAY_SO = 2.0
BACKLOG = 512  # connections that the system keeps until they are accepted
SECONDS_TO_ASK = 30  # of a connection, before its first request and after each answer


class Connection(H11Protocol):
    """A connection that is closed unless its client asks for something in time: idle ones would use up the system's.

    It speaks h11 whatever is installed, whose limits hold: 64 KiB of headers.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel_deadline()

    def _await_request(self) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(SECONDS_TO_ASK, self._close_idle)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _close_idle(self) -> None:
        """Closes the connection, unless a request is being answered."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Server(uvicorn.Server):
    """A server that ends well at SIGTERM and Ctrl-C: it accepts no more, and finishes what runs within a deadline.

    Args:
        deadline: seconds, after which what still runs is cut off. A second Ctrl-C does so at once.
        on_start: is called once requests are answered.

    Example:
        >>> Server(app, deadline=30, on_start=lambda: None).run([listen("127.0.0.1", 8000)])  # doctest: +SKIP
    """

    def __init__(self, app: Starlette, deadline: int, on_start: Callable[[], None]):
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level=logging.ERROR,  # it warns of what clients send, and they could fill a disk
                access_log=False,
                server_header=False,
                timeout_keep_alive=SECONDS_TO_ASK,  # clients close theirs earlier, and so lose no request
                timeout_graceful_shutdown=deadline,
                backlog=BACKLOG,
            )
        )
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        tasks = set(self.server_state.tasks)
        if self.force_exit:  # else those that are left are cancelled already
            for task in tasks:
                task.cancel()
        if tasks:  # they tell their clients
            await asyncio.wait(tasks, timeout=SECONDS_TO_SAY_SO)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals while the server runs; uvicorn would raise them again at the end, and so fail."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises InputError if it cannot."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address, family=family, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError):
        raise InputError("no such address: give one of this machine", "host", host) from None
    except OSError as error:
        fix = "choose another, or 0 for any free one"
        raise InputError(
            f"{host} cannot be listened on ({os.strerror(error.errno or 0)}): {fix}", "port", port
        ) from None
    # Each connection inherits it. Without, a second write waits for the first's acknowledgment, mostly 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def describe_address(listening: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
