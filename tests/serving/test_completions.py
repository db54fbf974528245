"""`/v1/completions` by OpenAI's own client, against the same model in Python."""

import json
from typing import Any

import keras
import numpy as np
import openai
import pytest

from gpt_tf2 import LanguageModel
from helpers.serving import HTTP

PROMPTS = ["The tide", "", "A lantern é"]


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def complete(client: openai.OpenAI, prompt: Any = "The tide", **asked: Any) -> openai.types.Completion:
    """A completion. What OpenAI's API does not have goes into the body by itself."""
    own = ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos")
    extra = {name: asked.pop(name) for name in own if name in asked}
    return client.completions.create(model="tiny", prompt=prompt, **asked, extra_body=extra)


@pytest.mark.parametrize(
    ("asked", "rules"),
    [
        ({}, {"top_k": 0}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_p": 0.8, "temperature": 1.3}, {"top_p": 0.8, "temperature": 1.3}),
        (
            {"top_k": 30, "repetition_penalty": 1.4, "min_tokens": 9},
            {"top_k": 30, "repetition_penalty": 1.4, "min_length": 9},
        ),
        ({"min_p": 0.3, "stop": ["e", "ing"]}, {"top_k": 0, "min_p": 0.3, "stop": ["e", "ing"]}),
        pytest.param(
            {"logprobs": 2},
            {"top_k": 0},
            marks=pytest.mark.skipif(keras.backend.backend() == "jax", reason="the loop on the device draws otherwise"),
        ),
    ],
)
def test_a_seed_gives_the_text_that_python_gets(
    client: openai.OpenAI, lm: LanguageModel, asked: dict[str, Any], rules: dict[str, Any]
) -> None:
    answer = complete(client, PROMPTS, seed=3, n=2, max_tokens=20, **asked)
    texts = lm.generate(PROMPTS, seed=3, n_samples=2, max_new_tokens=20, **rules)
    assert [choice.text for choice in answer.choices] == [text for samples in texts for text in samples]
    assert [choice.index for choice in answer.choices] == [*range(6)]


def test_token_ids_are_prompts_and_16_tokens_the_default(client: openai.OpenAI, lm: LanguageModel) -> None:
    ids = lm.tokenizer.encode("The tide")
    expected = lm.generate("The tide", seed=1, top_k=0, max_new_tokens=16)
    for prompt in (ids, [ids], "The tide", ["The tide"]):
        answer = complete(client, prompt, seed=1)
        assert answer.choices[0].text == expected
    usage = answer.usage
    assert usage and (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 16, 20)
    assert answer.model == "tiny" and answer.object == "text_completion"


def test_a_stream_has_the_same_texts_logprobs_reasons_and_usage(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"seed": 5, "n": 2, "max_tokens": 8, "logprobs": 1, "stop": ["a", "in"], "echo": True}
    whole = complete(client, PROMPTS, **asked)
    chunks = list(complete(client, PROMPTS, stream=True, stream_options={"include_usage": True}, **asked))
    assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
    assert {choice.finish_reason for choice in whole.choices} == {"stop", "length"}
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            streamed = [value for part in parts if part.logprobs for value in getattr(part.logprobs, name)]
            assert streamed == getattr(choice.logprobs, name)


def test_a_stream_is_events_that_end_with_done(url: str) -> None:
    body = {"prompt": "The", "max_tokens": 5, "stream": True, "seed": 1}
    with HTTP.stream("POST", f"{url}/v1/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line for line in answer.iter_lines() if line]
    assert all(event.startswith("data: ") for event in events) and events[-1] == "data: [DONE]"
    assert json.loads(events[0][6:])["object"] == "text_completion" and len(events) >= 3


def test_a_completion_ends_at_a_stop_at_its_own_end_or_where_there_is_no_room(
    client: openai.OpenAI, lm: LanguageModel
) -> None:
    end = {str(lm.tokenizer.end_of_text): 100}
    cases: list[tuple[dict[str, Any], str, int]] = [
        ({"max_tokens": 5}, "length", 5),
        ({"max_tokens": 500, "ignore_eos": True}, "length", 60),  # n_ctx is 64, the prompt has 4
        ({"logit_bias": end}, "stop", 0),
        ({"logit_bias": end, "min_tokens": 3}, "stop", 3),
        ({"logit_bias": end, "ignore_eos": True}, "length", 16),
        ({"max_tokens": 0}, "length", 0),
    ]
    for asked, reason, tokens in cases:
        answer = complete(client, seed=1, logprobs=0, **asked)
        assert answer.usage and answer.choices[0].logprobs and answer.choices[0].logprobs.tokens is not None
        assert answer.choices[0].finish_reason == reason, asked
        assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.tokens) == tokens, asked


def test_logprobs_are_those_of_the_network_before_the_rules(client: openai.OpenAI, lm: LanguageModel) -> None:
    asked: dict[str, Any] = {"temperature": 0.7, "top_p": 0.5, "presence_penalty": 1, "seed": 2}
    prompt = lm.tokenizer.encode("The tide")
    answer = complete(client, prompt, logprobs=5, **asked).choices[0]
    logprobs = answer.logprobs
    assert logprobs and logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs and logprobs.text_offset
    assert answer.text == complete(client, prompt, **asked).choices[0].text
    names = {name_token(lm, id): id for id in range(lm.tokenizer.n_vocab)}
    ids = prompt + [names[token] for token in logprobs.tokens]
    logits = np.asarray(lm.model(np.array([ids])))[0, len(prompt) - 1 : -1].astype("float64")
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = expected[np.arange(16), ids[len(prompt) :]]
    np.testing.assert_allclose(logprobs.token_logprobs, chosen, atol=1e-5)
    for row, top in zip(expected, logprobs.top_logprobs, strict=True):
        assert [names[name] for name in top] == np.argsort(-row)[:5].tolist()
        np.testing.assert_allclose([*top.values()], np.sort(row)[::-1][:5], atol=1e-5)
    for token, start in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert token.startswith("bytes:") or answer.text[start:].startswith(token)


def name_token(lm: LanguageModel, id: int) -> str:
    """The name of a token by OpenAI's convention."""
    token = lm.tokenizer.decode_bytes(id)
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + repr(token)[2:-1] if not token.isascii() else token.decode()


def test_echo_scores_the_prompt_as_python_does(client: openai.OpenAI, lm: LanguageModel) -> None:
    long = "The tide counted the lanterns of Orrin. " * 6  # longer than n_ctx, so not to be continued
    for prompt, asked in [
        ("The tide", {"max_tokens": 3}),
        ("A lantern é", {"max_tokens": 0}),
        (long, {"max_tokens": 0}),
    ]:
        answer = complete(client, prompt, echo=True, logprobs=3, seed=1, n=2, **asked)
        expected = lm.logprobs(prompt)
        for choice in answer.choices:
            logprobs = choice.logprobs
            assert logprobs and logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs
            assert choice.text.startswith(prompt) and len(logprobs.tokens) == len(expected) + asked["max_tokens"]
            scores = logprobs.token_logprobs[: len(expected)]
            np.testing.assert_allclose(scores, [token.logprob for token in expected], atol=1e-5)
            for token, logprob, top in zip(
                logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
            ):
                assert top.get(token, logprob) == logprob and len(top) == 3


def test_token_ids_are_scored_as_they_stand(client: openai.OpenAI, lm: LanguageModel) -> None:
    ids = lm.tokenizer.encode("The tide")
    for prompt, texts in (([lm.tokenizer.end_of_text, *ids], "The tide"), (ids[:1], None)):
        logprobs = complete(client, prompt, echo=True, logprobs=2, max_tokens=0).choices[0].logprobs
        assert logprobs and logprobs.token_logprobs and logprobs.top_logprobs
        assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
        expected = [token.logprob for token in lm.logprobs(texts)] if texts else []
        np.testing.assert_allclose(np.array(logprobs.token_logprobs[1:], float), expected, atol=1e-5)


def test_a_bias_forces_and_bans_a_token(client: openai.OpenAI, lm: LanguageModel) -> None:
    (id,) = lm.tokenizer.encode("e")
    assert complete(client, max_tokens=4, logit_bias={str(id): 100}).choices[0].text == "eeee"
    free = complete(client, max_tokens=1, temperature=0, logprobs=1).choices[0]
    assert free.logprobs and free.logprobs.tokens
    ids = {name_token(lm, id): id for id in range(lm.tokenizer.n_vocab)}
    banned = {str(ids[free.logprobs.tokens[0]]): -100}
    other = complete(client, max_tokens=1, temperature=0, logprobs=1, logit_bias=banned).choices[0]
    assert other.logprobs and other.logprobs.tokens and other.logprobs.tokens != free.logprobs.tokens


def test_a_frequency_penalty_ends_what_a_bias_repeats(client: openai.OpenAI, lm: LanguageModel) -> None:
    (id,) = lm.tokenizer.encode("e")
    asked: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "logit_bias": {str(id): 8}}
    free = complete(client, **asked).choices[0].text
    penalized = complete(client, frequency_penalty=2, **asked).choices[0].text
    assert free.count("e") > 2 * penalized.count("e") > 0


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"max_tokens": 1.5}, 400, "max_tokens"),
        ({"n": 0}, 400, "n"),
        ({"n": 100, "prompt": ["a", "b"]}, 400, "n"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"logprobs": 21}, 400, "logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop"),
        ({"stop": ""}, 400, "stop"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": ["a", 1]}, 400, "prompt"),
        ({"prompt": [2**40]}, 400, "prompt"),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"prompt": "lantern " * 100}, 400, "prompt"),
        ({"prompt": "a" * 100_000}, 400, "prompt"),
        ({"logit_bias": {"a": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"1": 101}}, 400, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, 400, "logit_bias"),
        ({"suffix": "end"}, 400, "suffix"),
        ({"best_of": 2}, 400, "best_of"),
        ({"min_tokens": 17}, 400, "min_tokens"),
        ({"min_tokens": 61, "max_tokens": 100}, 400, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, 400, "stream_options.include_usage"),
        ({"seed": -1}, 400, "seed"),
        ({"model": "other"}, 404, "model"),
    ],
)
def test_a_bad_value_is_named(url: str, asked: dict[str, Any], status: int, param: str) -> None:
    answer = HTTP.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "The tide"} | asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"} and error["message"].startswith(param)


def test_what_openai_ignores_is_ignored_and_null_is_a_default(url: str) -> None:
    body = {"prompt": None, "max_tokens": 2, "user": "ada", "unknown": [1], "suffix": None, "best_of": 1, "stop": None}
    assert (
        HTTP.post(f"{url}/v1/completions", json=body | {"ignore_eos": True}).json()["usage"]["completion_tokens"] == 2
    )


def test_the_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        complete(client, temperature=9)
    with pytest.raises(openai.NotFoundError, match="use tiny"):
        client.completions.create(model="huge", prompt="The")
    with pytest.raises(openai.NotFoundError, match="no chat template"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}])
