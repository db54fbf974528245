"""Clients that mean harm, on raw sockets: none may make the server fail, grow, or stop answering others."""

import contextlib
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.backend.memory import measure_own_memory
from gpt_tf2.serving.app import Limits
from helpers.markers import skip_on_jax
from helpers.serving import HTTP, connect, open_served, serving

Parts = Iterator[bytes]
MOST_BYTES = 1_000_000  # of a body
HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE: dict[str, Any] = {
    "model": "tiny",
    "prompt": ["The tide", "A lantern"],
    "max_tokens": 3,
    "temperature": 0.5,
    "n": 2,
    "stop": ["a", "b"],
    "logit_bias": {"5": 1},
    "logprobs": 2,
    "stream": False,
    "echo": True,
}
ODD = [None, True, -1, 1e308, 2**70, "", "é\ud800", [], {}, [[]], {"a": {}}, "x" * 10_000, [1] * 1000, float("nan")]


def post(body: bytes) -> bytes:
    """A request with a body."""
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body


def send_huge(draw: random.Random) -> Parts:
    """A body beyond the limit, by its declared length or in chunks without an end."""
    if draw.random() < 0.5:
        yield f"{HEAD}Content-Length: {MOST_BYTES + draw.randrange(1, 10**15)}\r\n\r\n".encode() + b"[" * 5000
        return
    yield f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    for _ in range(MOST_BYTES // 50_000 + 1):
        yield b"c350\r\n" + b" " * 50_000 + b"\r\n"


def send_cut(draw: random.Random) -> Parts:
    """A request that breaks off."""
    whole = post(json.dumps(WHOLE).encode())
    yield whole[: draw.randrange(len(whole))]


def send_broken(draw: random.Random) -> Parts:
    """A body that was valid before some of its values and bytes were exchanged, cut out or repeated."""
    asked = dict(WHOLE)
    for name in draw.sample(sorted(asked), draw.randrange(3)):
        asked[name] = draw.choice(ODD)
    body = bytearray(json.dumps(asked).encode())
    for _ in range(draw.randrange(4)):
        start = draw.randrange(len(body) + 1)
        end = start + draw.randrange(12)
        body[start:end] = draw.choice([b"", bytes([draw.randrange(256)]), body[start:end] * 3, b'"', b"{", b"]"])
    yield post(bytes(body))


def send_malformed(draw: random.Random) -> Parts:
    """A body that is no JSON."""
    whole = json.dumps(WHOLE)
    yield post((whole[: draw.randrange(len(whole))] + draw.choice(["", ",", "'", "}}", "\x00", "NaN"])).encode())


def send_wrong_type(draw: random.Random) -> Parts:
    """A field with a value of another type."""
    yield post(json.dumps(WHOLE | {draw.choice(sorted(WHOLE)): {"a": draw.choice(ODD)}}).encode())


def send_deep(draw: random.Random) -> Parts:
    """Lists or objects within each other."""
    depth, (opening, closing) = draw.randrange(2000, 150_000), draw.choice([("[", "]"), ('{"a":', "}")])
    yield post(f'{{"prompt": {opening * depth}1{draw.choice(["", closing * depth])}}}'.encode()[:MOST_BYTES])


def send_invalid_utf8(draw: random.Random) -> Parts:
    """A text with bytes that UTF-8 does not have."""
    body = bytearray(json.dumps(WHOLE).encode())
    start = body.index(b"tide")
    body[start : start + 1] = draw.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
    yield post(bytes(body))


def send_many_headers(draw: random.Random) -> Parts:
    """Headers without an end: many, or a long one."""
    yield HEAD.encode()
    line = b"X-%d: b\r\n" if draw.random() < 0.5 else b"%d" * 100
    for number in range(draw.randrange(8000, 20_000)):
        yield line % number if line.endswith(b"\n") else b"a" * 100


def send_junk(draw: random.Random) -> Parts:
    """Anything but HTTP."""
    yield draw.randbytes(draw.randrange(1, 3000)) + b"\r\n\r\n"


# Each with the statuses that it may get. None: the server closed the connection, perhaps before its answer was read.
KINDS: dict[Callable[[random.Random], Parts], set[int | None]] = {
    send_huge: {413},
    send_cut: {400, None},
    send_broken: {200, 400, 404},
    send_malformed: {400},
    send_wrong_type: {400},
    send_deep: {400},
    send_invalid_utf8: {400},
    send_many_headers: {400, None},
    send_junk: {400, None},
}


def read_status(connection: socket.socket) -> int | None:
    """The status of the answer; None if there is none."""
    with contextlib.suppress(ConnectionError):
        head = connection.recv(4096)
        if head:
            return int(head[9:12])
    return None


def attack(url: str, kind: Callable[[random.Random], Parts], number: int) -> int | None:
    """Sends what a kind of client sends, and no more. Returns the answer's status."""
    with connect(url) as connection:
        with contextlib.suppress(ConnectionError):  # the server has enough
            for part in kind(random.Random(number)):
                connection.sendall(part)
            if kind in (send_cut, send_junk):
                connection.shutdown(socket.SHUT_WR)
        return read_status(connection)


@skip_on_jax
@pytest.mark.parametrize("count", [90, pytest.param(1000, marks=pytest.mark.slow)])
def test_hostile_requests_are_never_the_servers_fault(tiny: Path, lm: LanguageModel, count: int) -> None:
    models = open_served(tiny)
    models.load_first()
    kinds = [[*KINDS][number % len(KINDS)] for number in range(count)]
    with (
        serving(models, Limits(body=MOST_BYTES)) as url,
        ThreadPoolExecutor(8) as threads,
        contextlib.ExitStack() as idle,
    ):
        for _ in range(count // 4):
            idle.enter_context(connect(url))

        def attack_all(numbers: range) -> list[int | None]:
            return list(threads.map(lambda number: attack(url, kinds[number], number), numbers))

        statuses = attack_all(range(count // 2))
        before = measure_own_memory()
        statuses += attack_all(range(count // 2, count))
        assert measure_own_memory() - before < 100e6
        for kind, status in zip(kinds, statuses, strict=True):
            assert status in KINDS[kind], kind
        assert {200, 400} <= {status for kind, status in zip(kinds, statuses, strict=True) if kind is send_broken}
        text = HTTP.post(f"{url}/v1/completions", json={"prompt": "The tide", "temperature": 0}).json()
    assert text["choices"][0]["text"] == lm.generate("The tide", temperature=0, max_new_tokens=16)


def trickle(url: str, start: str) -> int | None:
    """Sends the start of a request, and then a byte at a time until the server has enough. Returns the status."""
    with connect(url) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(start.encode())
        connection.setblocking(False)
        while True:
            try:
                head = connection.recv(4096)
                return int(head[9:12]) if head else None
            except BlockingIOError:
                connection.send(b"a")
                time.sleep(0.1)
    return None


@skip_on_jax
@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_slow_and_idle_clients_are_cut_off_and_do_not_keep_others_out(
    tiny: Path, lm: LanguageModel, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = ["", "GET /health HT", f"{HEAD}X: ", f"{HEAD}Content-Length: 999\r\n\r\n"]
    kept = httpx.Limits(keepalive_expiry=60)
    with (
        serving(open_served(tiny)) as url,
        httpx.Client(timeout=60, limits=kept) as other,
        ThreadPoolExecutor(count) as threads,
        contextlib.ExitStack() as idle,
    ):
        assert other.get(f"{url}/health").status_code == 200  # its connection is not in a hurry
        monkeypatch.setattr("gpt_tf2.serving.app.SECONDS_FOR_BODY", 1)
        monkeypatch.setattr("gpt_tf2.serving.server.SECONDS_TO_ASK", 1)
        silent = [idle.enter_context(connect(url)) for _ in range(count)]
        slow = [threads.submit(trickle, url, start) for start in starts * (count // 4)]
        assert other.get(f"{url}/health").status_code == 200
        assert [read_status(connection) for connection in silent] == [None] * count
        assert {ended.result() for ended in slow} == {None, 408}
        monkeypatch.undo()
        assert HTTP.get(f"{url}/health").status_code == 200
