"""A server on a thread of the test's process."""

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from starlette.applications import Starlette

from gpt_tf2.commands.serve import ServeSettings, open_models
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.serving.app import Limits, make_app
from gpt_tf2.serving.models import Models
from gpt_tf2.serving.prompt_log import PromptLog
from gpt_tf2.serving.server import Server, describe_address, listen

HTTP = httpx.Client(timeout=60)  # one for all tests: making one takes 30 ms


@contextlib.contextmanager
def serving(
    models: Models, limits: Limits | None = None, api_key: str | None = None, log: PromptLog | None = None
) -> Iterator[str]:
    """Serves models until the end of the `with` block, at the URL that it gives."""
    with running(make_app(models, limits or Limits(), api_key, log=log)) as url:
        yield url
    models.close()


@contextlib.contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Runs an application until the end of the `with` block, at the URL that it gives."""
    ready = threading.Event()
    with listen("127.0.0.1", 0) as listening:
        server = Server(app, deadline=5, on_start=ready.set)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        assert ready.wait(60)
        yield describe_address(listening)
        server.should_exit = True
        thread.join()


def connect(url: str) -> socket.socket:
    """A connection to a server, for what no HTTP client would send."""
    where = urlsplit(url)
    return socket.create_connection((where.hostname, where.port or 80), timeout=60)


def post_raw(url: str, path: str, body: object) -> socket.socket:
    """A connection on which a JSON body was posted. Its client leaves when it is closed."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection = connect(url)
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def open_served(*paths: Path, **settings: object) -> Models:
    """Models as the command `serve` opens them."""
    return open_models(ServeSettings(model=tuple(map(str, paths)), **settings))  # type: ignore[arg-type]


class Gate:
    """Stands before each step of a model, and counts the steps. It is open at first."""

    def __init__(self) -> None:
        self.steps = 0
        self._left = math.inf  # steps until it shuts
        self._fails = False
        self._open = threading.Event()
        self.open()

    def open(self) -> None:
        """Lets all steps pass."""
        self._left = math.inf
        self._open.set()

    def shut(self) -> None:
        """Lets no step pass."""
        self._open.clear()

    def shut_after(self, steps: int) -> None:
        """Lets some steps pass, and then none."""
        self._left = steps
        self._open.set()

    def fail_once(self) -> None:
        """Makes the next step fail."""
        self._fails = True

    def _pass(self) -> None:
        self.steps += 1
        if self._left == 0:
            self.shut()
        self._left -= 1
        self._open.wait()
        if self._fails:
            self._fails = False
            raise ValueError("the gate fails")

    def before(self, models: Models) -> Models:
        """Stands before the steps of the first of these models, which is loaded."""
        served = next(iter(models.served.values()))
        load: Callable[[], Decoder] = served.load

        def load_gated() -> Decoder:
            decoder = load()
            decoder.loops_on_device = False  # there a model has no steps of its own
            extend = decoder.extend

            def extend_gated(*arguments: object, **named: object) -> object:
                self._pass()
                return extend(*arguments, **named)  # type: ignore[arg-type]

            decoder.extend = extend_gated  # type: ignore[method-assign, assignment]
            return decoder

        served.load = load_gated
        models.load_first()
        return models


def wait_until(is_so: Callable[[], bool]) -> None:
    """Waits for a change in another thread."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)
