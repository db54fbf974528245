"""Who may ask, and how much: keys, names, sizes, queues, time, and clients that leave."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.serving.app import Limits
from gpt_tf2.serving.models import Models, Served
from helpers.serving import HTTP, Gate, connect, open_served, post_raw, serving, wait_until


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def models(tiny: Path, lm: LanguageModel, gate: Gate) -> Iterator[Models]:
    """The model in two slots with one more request in the queue; a gate stands before its steps."""
    yield gate.before(open_served(tiny, batch_size=2, queue=1))
    gate.open()


def ask(url: str, **body: Any) -> httpx.Response:
    """A request for a text of 50 tokens."""
    asked = {"prompt": "The tide", "max_tokens": 50, "ignore_eos": True, "seed": 1} | body
    return HTTP.post(f"{url}/v1/completions", json=asked)


def only(models: Models) -> Served:
    (served,) = models.served.values()
    return served


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot_within_a_step(
    models: Models, gate: Gate, lm: LanguageModel, stream: bool
) -> None:
    with serving(models) as url:
        worker, began = only(models).worker, gate.steps
        assert worker
        gate.shut()
        asked = {"prompt": "The tide", "max_tokens": 50, "ignore_eos": True, "stream": stream}
        with post_raw(url, "/v1/completions", asked):
            wait_until(lambda: gate.steps == began + 1)
        wait_until(lambda: only(models).jobs == 0)
        gate.open()
        wait_until(lambda: worker.running == 0)
        assert gate.steps == began + 1
        text = ask(url, temperature=0).json()["choices"][0]["text"]
        assert text == lm.generate("The tide", temperature=0, max_new_tokens=50)


def test_a_client_that_leaves_while_others_wait_makes_room(models: Models, gate: Gate, lm: LanguageModel) -> None:
    with serving(models) as url, ThreadPoolExecutor(2) as threads:
        gate.shut()
        leaving = post_raw(url, "/v1/completions", {"prompt": "A", "n": 2})
        wait_until(lambda: only(models).jobs == 1)
        others = [threads.submit(ask, url, prompt=prompt, temperature=0) for prompt in ("The tide", "A lantern")]
        wait_until(lambda: only(models).jobs == 3)
        refused = ask(url)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["type"] == "rate_limit_error"
        leaving.close()
        wait_until(lambda: only(models).jobs == 2)
        gate.open()
        texts = [other.result().json()["choices"][0]["text"] for other in others]
        assert texts == lm.generate(["The tide", "A lantern"], temperature=0, max_new_tokens=50)


def test_a_request_that_does_not_begin_in_time_is_to_try_again(models: Models, gate: Gate) -> None:
    with serving(models, Limits(seconds=0.2)) as url:
        gate.shut()
        late = ask(url)
        assert late.status_code == 503 and "not begun" in late.json()["error"]["message"]
        assert late.headers["retry-after"]
        gate.open()


def test_a_stream_that_is_not_finished_in_time_ends_with_an_error(models: Models, gate: Gate) -> None:
    with serving(models, Limits(seconds=3)) as url:  # enough for the first text on a slow machine
        gate.shut_after(3)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        asked: Any = {"max_tokens": 50, "stream": True, "extra_body": {"ignore_eos": True}}
        stream = client.completions.create(model="tiny", prompt="The", **asked)
        with pytest.raises(openai.APIError, match="not finished within 3 s"):
            list(stream)
        gate.open()


def test_a_large_or_slow_body_is_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["Host: localhost", "Content-Type: application/json", "Content-Length: 99", "", '{"prompt": ']
    cut = "\r\n".join(["POST /v1/completions HTTP/1.1", *lines])
    with serving(models, Limits(body=1000)) as url:
        assert ask(url, prompt="a" * 2000).status_code == 413
        json = {"Content-Type": "application/json"}
        parts = HTTP.post(f"{url}/v1/completions", content=iter([b" " * 600] * 2), headers=json)
        assert parts.status_code == 413
        with monkeypatch.context() as hurried, connect(url) as connection:
            hurried.setattr("gpt_tf2.serving.app.SECONDS_FOR_BODY", 0.2)
            connection.sendall(cut.encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        assert ask(url, max_tokens=1).status_code == 200


def test_a_key_is_asked_for_everywhere_but_for_health(models: Models) -> None:
    with serving(models, api_key="s3cret") as url:
        assert HTTP.get(f"{url}/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            for key in (None, "", "Bearer", "Bearer wrong", "Basic s3cret", "Bearer s3cret2"):
                headers = {} if key is None else {"Authorization": key}
                answer = HTTP.get(f"{url}{path}", headers=headers)
                assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        right = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret")
        assert [model.id for model in right.models.list()] == ["tiny"]
        with pytest.raises(openai.AuthenticationError, match="wrong API key"):
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
        named = {"Host": "example.org", "Authorization": "Bearer s3cret"}
        assert HTTP.get(f"{url}/v1/models", headers=named).status_code == 200


def test_without_a_key_a_foreign_name_is_refused(models: Models) -> None:
    with serving(models) as url:
        port = url.rpartition(":")[2]
        for host in ("localhost", f"localhost:{port}", "127.0.0.1", "[::1]", f"[::1]:{port}"):
            assert HTTP.get(f"{url}/v1/models", headers={"Host": host}).status_code == 200
        for host in ("example.org", f"example.org:{port}", "localhost.example.org", "127.0.0.1.example.org", ""):
            assert HTTP.get(f"{url}/v1/models", headers={"Host": host}).status_code == 403


def test_a_failing_model_is_an_error_and_the_server_goes_on(
    models: Models, gate: Gate, capfd: pytest.CaptureFixture
) -> None:
    with serving(models) as url:
        gate.fail_once()
        failed = ask(url, prompt="my secret")
        assert failed.status_code == 500 and failed.json()["error"]["code"] == "model_failed"
        assert ask(url).status_code == 200
    printed = capfd.readouterr()
    assert "the gate fails" in printed.err and "secret" not in printed.err + printed.out
