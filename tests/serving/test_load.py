"""Many clients at once."""

import json
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


@pytest.mark.parametrize(("clients", "each"), [(16, 4), pytest.param(64, 60, marks=pytest.mark.slow)])
def test_every_client_gets_the_text_that_it_gets_alone(tiny: Path, lm: LanguageModel, clients: int, each: int) -> None:
    models = open_served(tiny, queue=clients)
    models.load_first()
    count = clients * each
    limits = httpx.Limits(max_connections=clients)
    with (
        serving(models) as url,
        httpx.Client(base_url=url, timeout=60, limits=limits) as client,
        ThreadPoolExecutor(clients) as threads,
    ):
        texts = list(threads.map(lambda number: ask(client, number), range(count)))
        worker = models.served["tiny"].worker
        assert worker
        wait_until(lambda: worker.running == worker.waiting == 0)
    for number in range(0, count, 1 + count // 200):
        rules = KINDS[number % len(KINDS)][1]
        alone = lm.generate(f"Lantern {number}", seed=number, max_new_tokens=20, **rules)
        assert texts[number] in (alone, "left"), number
