"""The routes beside completions, and bodies that nobody should send."""

import contextlib
import json
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpt_tf2 import LanguageModel
from helpers.serving import HTTP, connect, wait_until


def test_models_and_health(url: str) -> None:
    listed = HTTP.get(f"{url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["tiny"]
    assert HTTP.get(f"{url}/v1/models/tiny").json() == listed[0]
    assert HTTP.get(f"{url}/v1/models/huge").status_code == 404
    assert HTTP.get(f"{url}/health").json() == {"status": "ok"}


def test_a_text_becomes_tokens_and_text_again(url: str, lm: LanguageModel) -> None:
    text = "The tide é<|endoftext|>"
    answer = HTTP.post(f"{url}/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert answer["tokens"] == lm.tokenizer.encode(text, allow_special=True)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) and answer["max_model_len"] == 64
    assert HTTP.post(f"{url}/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}
    wrong = HTTP.post(f"{url}/detokenize", json={"tokens": [99_999]})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "tokens"
    info = HTTP.get(f"{url}/tokenizer_info").json()
    assert (info["vocab_size"], info["eos_token_id"]) == (lm.tokenizer.n_vocab, lm.tokenizer.end_of_text)


def test_metrics_count_requests_and_tokens(url: str) -> None:
    def read() -> dict[str, float]:
        families = text_string_to_metric_families(HTTP.get(f"{url}/metrics").text)
        return {s.name + "".join(map(str, s.labels.values())): s.value for f in families for s in f.samples}

    before = read()
    HTTP.post(f"{url}/v1/completions", json={"prompt": "The tide", "max_tokens": 7, "ignore_eos": True})
    HTTP.post(f"{url}/v1/completions", json={"prompt": 1})
    HTTP.get(f"{url}/{'x' * 50}")
    wait_until(lambda: read()["gpt_tf2_runningtiny"] == 0)  # the model's thread counts after it has answered
    after = read()
    changes = {name: value - before.get(name, 0) for name, value in after.items()}
    assert changes["gpt_tf2_completion_tokens_totaltiny"] == 7 and changes["gpt_tf2_prompt_tokens_totaltiny"] == 4
    assert (
        changes["gpt_tf2_requests_total/v1/completions200"] == changes["gpt_tf2_requests_total/v1/completions400"] == 1
    )
    assert changes["gpt_tf2_requests_totalother404"] == changes["gpt_tf2_first_text_seconds_counttiny"] == 1
    assert (after["gpt_tf2_slotstiny"], after["gpt_tf2_runningtiny"], after["gpt_tf2_waitingtiny"]) == (8, 0, 0)


def test_the_schema_describes_every_route_and_field(url: str) -> None:
    schema = HTTP.get(f"{url}/openapi.json").json()
    assert {"/v1/completions", "/v1/models/{name}", "/tokenize", "/metrics"} <= schema["paths"].keys()
    body = schema["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert body["properties"]["max_tokens"]["default"] == 16
    assert all(field["description"] for field in body["properties"].values())


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/chat/completions", 404, "base_url ends in /v1"),
        ("GET", "/v1/completions", 405, "Method Not Allowed"),
        ("OPTIONS", "/v1/completions", 405, "Method Not Allowed"),
    ],
)
def test_a_wrong_path_or_method_is_an_error_in_openais_form(
    url: str, method: str, path: str, status: int, words: str
) -> None:
    answer = HTTP.request(method, f"{url}{path}", headers={"Origin": "https://example.org"})
    assert answer.status_code == status and words in answer.json()["error"]["message"]
    assert not [name for name in answer.headers if name.startswith("access-control")]


BAD_BODIES = [
    b"",
    b" ",
    b"{",
    b"}",
    b"null",
    b"true",
    b"0",
    b"[]",
    b'"text"',
    b"{'prompt': 'a'}",
    b'{"prompt": "a",}',
    b'{"prompt": "a"} {}',
    b'{"prompt": "\xff\xfe"}',
    b'\xff\xfe{\x00"\x00a\x00"\x00:\x001\x00}\x00',
    b"\xef\xbb\xbf{}",
    b"\x00" * 100,
    b"\x1f\x8b\x08\x00",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"max_tokens": ' + b"9" * 5000 + b"}",
    b'{"max_tokens": 1e999}',
    b'{"temperature": NaN}',
    b'{"temperature": -Infinity}',
    b'{"temperature": 1e400}',
    b'{"seed": 18446744073709551616}',
    b'{"seed": true}',
    b'{"n": {}}',
    b'{"n": "2"}',
    b'{"n": 1e300}',
    b'{"prompt": {}}',
    b'{"prompt": [[]]}',
    b'{"prompt": [[1], "a"]}',
    b'{"prompt": [[[1]]]}',
    b'{"prompt": [1.5]}',
    b'{"prompt": [null]}',
    b'{"model": ["tiny"]}',
    b'{"model": "../../etc/passwd"}',
    b'{"model": "\\ud800"}',
    b'{"stop": [[]]}',
    b'{"stop": [null]}',
    b'{"logit_bias": []}',
    b'{"logit_bias": {"\\u0663": 1}}',
    b'{"logit_bias": {"-1": 1}}',
    b'{"logit_bias": {"1": null}}',
    b'{"logit_bias": {"1": 1e308}}',
    b'{"stream_options": []}',
    b'{"stream": "yes"}',
    b'{"echo": 1}',
    b'{"best_of": true}',
    b'{"suffix": {"a": 1}}',
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body[:30]))
def test_a_hostile_body_is_the_clients_fault(url: str, body: bytes) -> None:
    answer = HTTP.post(f"{url}/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["message"] and answer.headers["content-type"] == "application/json"


def test_odd_texts_are_answered(url: str) -> None:
    for prompt in ("\\ud800", "\\u0000", "\\ud83d\\ude00", "\\udc00\\ud800", "\\u202e<script>"):
        body = f'{{"prompt": "{prompt}", "echo": true, "logprobs": 1, "max_tokens": 2, "stop": "{prompt}"}}'
        answer = HTTP.post(f"{url}/v1/completions", content=body.encode(), headers={"Content-Type": "application/json"})
        expected = json.loads(f'"{prompt}"').encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        assert answer.json()["choices"][0]["text"].startswith(expected)


def test_another_media_type_is_refused(url: str) -> None:
    for headers in ({"Content-Type": "text/plain"}, {}):
        answer = HTTP.post(f"{url}/v1/completions", content=b'{"prompt": "a"}', headers=headers)
        assert answer.status_code == 415 and "Content-Type" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v1/models HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_what_is_not_http_is_refused(url: str, raw: bytes) -> None:
    answer = b""
    with connect(url) as connection, contextlib.suppress(OSError):  # the server has closed it
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    assert HTTP.get(f"{url}/health").status_code == 200
