"""Many clients at once."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt_tf2 import LanguageModel
from helpers.serving import open_served, serving, wait_until

KINDS: list[tuple[dict[str, Any], dict[str, Any]]] = [  # of request, and the same for Python
    ({}, {"top_k": 0}),
    ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}),
    ({"top_k": 5, "min_tokens": 4}, {"top_k": 5, "min_length": 4}),
    ({"temperature": 0, "stop": "e"}, {"temperature": 0, "stop": "e"}),
]
REQUESTS = 64  # different ones


def ask(client: httpx.Client, number: int) -> str:
    """The text of a request, which is streamed if its number is odd. Every seventh client leaves early."""
    own, _ = KINDS[number % len(KINDS)]
    asked = {"prompt": f"Lantern {number}", "max_tokens": 20, "seed": number, "stream": number % 2 == 1} | own
    if number % 2 == 0:
        return client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    text = ""
    with client.stream("POST", "/v1/completions", json=asked) as answer:
        for line in answer.iter_lines():
            if number % 7 == 0 and text:
                return "left"
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    return text


@pytest.mark.parametrize(("clients", "seconds"), [(16, 0), pytest.param(64, 60, marks=pytest.mark.slow)])
def test_every_client_gets_the_text_that_it_gets_alone(
    tiny: Path, lm: LanguageModel, clients: int, seconds: int
) -> None:
    models = open_served(tiny, queue=clients)
    models.load_first()
    deadline = time.monotonic() + seconds

    def keep_asking(client: int) -> list[tuple[int, str]]:
        """The numbers and texts of four requests, or of as many as there is time for."""
        texts: list[tuple[int, str]] = []
        while len(texts) < 4 or time.monotonic() < deadline:
            number = (4 * client + len(texts)) % REQUESTS
            texts.append((number, ask(http, number)))
        return texts

    limits = httpx.Limits(max_connections=clients)
    with (
        serving(models) as url,
        httpx.Client(base_url=url, timeout=120, limits=limits) as http,
        ThreadPoolExecutor(clients) as threads,
    ):
        answers = [answer for texts in threads.map(keep_asking, range(clients)) for answer in texts]
        worker = models.served["tiny"].worker
        assert worker
        wait_until(lambda: worker.running == worker.waiting == 0)
    assert {number for number, _ in answers} == {*range(REQUESTS)}
    alone = [
        lm.generate(f"Lantern {number}", seed=number, max_new_tokens=20, **KINDS[number % len(KINDS)][1])
        for number in range(REQUESTS)
    ]
    for number, text in answers:
        assert text in (alone[number], "left"), number
