"""Many clients and many broken requests at once."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import keras
import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.backend.memory import measure_own_memory
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


def break_requests(count: int) -> Iterator[bytes]:
    """Bodies that were valid before some of their bytes were changed, cut out, repeated or exchanged for others."""
    draw = random.Random(1)
    whole: dict[str, Any] = {
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
    odd = [None, True, -1, 1e308, 2**70, "", "é\ud800", [], {}, [[]], {"a": {}}, "x" * 10_000, [1] * 1000, float("nan")]
    for _ in range(count):
        asked = dict(whole)
        for name in draw.sample(sorted(asked), draw.randrange(3)):
            asked[name] = draw.choice(odd)
        body = bytearray(json.dumps(asked).encode())
        for _ in range(draw.randrange(4)):
            start = draw.randrange(len(body) + 1)
            end = start + draw.randrange(12)
            body[start:end] = draw.choice([b"", bytes([draw.randrange(256)]), body[start:end] * 3, b'"', b"{", b"]"])
        yield bytes(body)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_broken_requests_are_never_the_servers_fault(url: str, count: int) -> None:
    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client, ThreadPoolExecutor(4) as threads:
        bodies = list(break_requests(count))

        def send(body: bytes) -> int:
            answer = client.post("/v1/completions", content=body)
            assert answer.status_code < 500, (body, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"]["message"], body
            return answer.status_code

        codes = list(threads.map(send, bodies[: count // 2]))
        before = measure_own_memory()
        codes += threads.map(send, bodies[count // 2 :])
        assert 0.05 < codes.count(200) / count < 0.95
        if keras.backend.backend() == "tensorflow":  # JAX compiles as it goes
            assert measure_own_memory() - before < 100e6
        assert client.get("/health").status_code == 200
