"""Running the application: the address, signals, and the end."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from gpt_tf2.errors import InputError

SECONDS_TO_SAY_SO = 2.0
BACKLOG = 512  # connections that the system keeps until they are accepted


class Server(uvicorn.Server):
    """A server that ends well at SIGTERM and Ctrl-C: it accepts no more, and finishes what runs within a deadline.

    Args:
        deadline: seconds, after which what still runs is cut off. A second Ctrl-C does so at once.
        on_start: is called once requests are answered.

    Example:
        >>> Server(app, deadline=30, on_start=lambda: None).run([listen("127.0.0.1", 8000)])  # doctest: +SKIP
    """

    def __init__(self, app: Starlette, deadline: int, on_start: Callable[[], None]):
        # h11 whatever is installed, so that its limits hold: 64 KiB of headers.
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                server_header=False,
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
