"""Clients of a server that speaks OpenAI's completions, on threads of this process."""

import collections
import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterable

HEADERS = {"Content-Type": "application/json"}


def measure_tokens_per_second(
    port: int, prompts: Iterable[str], clients: int, new_tokens: int, **body: object
) -> float:
    """New tokens per second of all clients together, each of which sends the next prompt once it has its answer.

    Args:
        new_tokens: of each answer.
        body: what else is asked, such as `stream`.

    Raises SystemExit if an answer has fewer tokens.
    """
    waiting, ends = collections.deque(prompts), list[str | None]()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while waiting:
            ends.append(complete(connection, {**body, "max_tokens": new_tokens, "prompt": waiting.popleft()}))
        connection.close()

    asked = len(waiting)
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    if ends != ["length"] * asked:
        raise SystemExit(f"not all of {asked} answers are whole: {ends}")
    return asked * new_tokens / seconds


def measure_first_token(port: int, prompts: Iterable[str], **body: object) -> float:
    """The median time in ms from opening a connection to the first event of a streamed answer, one after another."""
    times = []
    for prompt in prompts:
        time.sleep(0.1)  # idle
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        response = post(connection, {**body, "prompt": prompt, "stream": True})
        response.readline()
        times.append(1000 * (time.monotonic() - began))
        response.read()
        connection.close()
    return statistics.median(times)


def complete(connection: http.client.HTTPConnection, body: dict[str, object]) -> str | None:
    """Reads an answer, streamed or not, to its end. Returns why it ended, "length" after all of its tokens."""
    response = post(connection, body)
    if not body.get("stream"):
        return json.loads(response.read())["choices"][0]["finish_reason"]
    lines = [line for line in response if line.strip()]
    return json.loads(lines[-2].removeprefix(b"data: "))["choices"][0]["finish_reason"]  # the last line is [DONE]


def post(connection: http.client.HTTPConnection, body: dict[str, object]) -> http.client.HTTPResponse:
    """Asks for a completion. Raises OSError if the server refuses."""
    connection.request("POST", "/v1/completions", json.dumps(body), HEADERS)
    response = connection.getresponse()
    if response.status != 200:
        raise OSError(f"status {response.status}: {response.read()[:500]!r}")
    return response
