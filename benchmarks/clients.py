"""Clients of a server that speaks OpenAI's completions, on threads of this process."""

import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterable

HEADERS = {"Content-Type": "application/json", "Connection": "close"}


def measure_tokens_per_second(port: int, prompts: list[str], clients: int, new_tokens: int, **body: object) -> float:
    """New tokens per second of all clients together, each of which sends the next prompt once it has its answer.

    Args:
        new_tokens: of each answer.
        body: what else is asked, such as `stream`.

    Raises SystemExit if an answer has fewer tokens.
    """
    waiting, ends = iter(prompts), list[str | None]()

    def ask() -> None:
        for prompt in waiting:  # each goes to one client
            ends.append(complete(port, {**body, "max_tokens": new_tokens, "prompt": prompt}))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    if ends != ["length"] * len(prompts):
        raise SystemExit(f"not all of {len(prompts)} answers are whole: {ends}")
    return len(prompts) * new_tokens / seconds


def measure_first_token(port: int, prompts: Iterable[str], **body: object) -> float:
    """The median time in ms from opening a connection to the first event of a streamed answer, one after another."""
    times = []
    for prompt in prompts:
        time.sleep(0.1)  # idle
        began = time.monotonic()
        with post(port, {**body, "prompt": prompt, "stream": True}) as response:
            response.readline()
            times.append(1000 * (time.monotonic() - began))
            response.read()
    return statistics.median(times)


def complete(port: int, body: dict[str, object]) -> str | None:
    """Reads an answer, streamed or not, to its end. Returns why it ended, "length" after all of its tokens."""
    with post(port, body) as response:
        lines = [line for line in response if line.strip()]
    last = lines[-2].removeprefix(b"data: ") if body.get("stream") else b"".join(lines)  # [DONE] is the last line
    return json.loads(last)["choices"][0]["finish_reason"]


def post(port: int, body: dict[str, object]) -> http.client.HTTPResponse:
    """Asks for a completion, on a connection of its own. Raises OSError if the server refuses."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/completions", json.dumps(body), HEADERS)
    response = connection.getresponse()  # closing it ends the connection
    if response.status != 200:
        raise OSError(f"status {response.status}: {response.read()[:500]!r}")
    return response
