"""What `POST /v1/completions` asks, as work for the thread that runs the model."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.logprobs import predict_after
from gpt_tf2.generation.completions import Prompt, encode_prompt
from gpt_tf2.generation.samples import spawn_generators
from gpt_tf2.generation.sampling import (
    FrequencyPenalty,
    LogitBias,
    MinimumLength,
    PresencePenalty,
    Rule,
    Sampler,
    make_sampler,
)
from gpt_tf2.generation.scheduler import Request
from gpt_tf2.generation.token_logprobs import RecordingSampler, TokenLogprobs, rank_token
from gpt_tf2.serving.api_errors import ApiError
from gpt_tf2.serving.completion import (
    Completion,
    Emit,
    Finished,
    Piece,
    ScoredToken,
    locate_tokens,
    name_scores,
    name_token,
)
from gpt_tf2.serving.openai_requests import CompletionRequest, SamplingRequest
from gpt_tf2.serving.worker import Job
from gpt_tf2.tokenizer import Tokenizer


def read_prompts(model: OpenedModel, asked: CompletionRequest) -> list[Prompt]:
    """The prompts of a request with their ids. Takes a while where they are long.

    Raises ApiError if one leaves no room in the context, or less than `min_tokens`, or has an unknown id.
    """
    return [read_prompt(model, prompt, asked) for prompt in asked.prompts]


def read_prompt(model: OpenedModel, prompt: str | list[int], asked: CompletionRequest) -> Prompt:
    tokenizer, n_ctx = model.tokenizer, model.config.n_ctx
    scored_only = asked.max_tokens == 0
    if isinstance(prompt, str):
        if len(prompt) >= n_ctx * find_longest_token(tokenizer) and not scored_only:  # encoding it would take a while
            raise explain_length(f"more than {n_ctx}", n_ctx)
        encoded = encode_prompt(tokenizer, prompt)
    else:
        check_ids(tokenizer, prompt, "prompt")
        encoded = Prompt(tokenizer.decode(prompt), prompt)
    room = n_ctx - len(encoded.ids)
    if scored_only:
        return encoded
    if room <= 0:
        raise explain_length(str(len(encoded.ids)), n_ctx)
    if asked.min_tokens > room:
        raise ApiError(f"min_tokens: use at most {room}, for which the prompt leaves room", "min_tokens")
    return encoded


@functools.lru_cache(maxsize=64)
def find_longest_token(tokenizer: Tokenizer) -> int:
    """The length of a vocabulary's longest token, in bytes."""
    return max(len(tokenizer.decode_bytes(id)) for id in range(tokenizer.n_vocab))


def check_ids(tokenizer: Tokenizer, ids: Sequence[int], param: str) -> None:
    """Raises ApiError unless all ids are tokens of the vocabulary."""
    if ids and max(ids) >= tokenizer.n_vocab:
        raise ApiError(f"{param}: use token ids below {tokenizer.n_vocab}", param)


def explain_length(tokens: str, n_ctx: int, param: str = "prompt") -> ApiError:
    """The error for a prompt that leaves no room in the context."""
    message = f"{param}: {tokens} tokens, but the model's context is {n_ctx}: shorten it to {n_ctx - 1} or fewer"
    return ApiError(message, param, code="context_length_exceeded")


def make_sampler_for(asked: SamplingRequest, end: int, config: GPT2Config, prompt_tokens: int) -> Sampler:
    """The rules of a request, OpenAI's before the usual ones.

    Args:
        end: the id that ends a completion.
        prompt_tokens: the length of the prompt.
    """
    sampler = make_sampler(asked.temperature, asked.top_k, asked.top_p, asked.min_p, asked.repetition_penalty)
    rules: list[Rule] = []
    if asked.ignore_eos or asked.min_tokens:  # first, so that a nucleus never holds the end alone
        rules.append(MinimumLength(end, config.n_ctx if asked.ignore_eos else prompt_tokens + asked.min_tokens))
    if asked.logit_bias:
        rules.append(LogitBias(tuple(asked.logit_bias), tuple(asked.logit_bias.values())))
    if asked.presence_penalty:
        rules.append(PresencePenalty(asked.presence_penalty, prompt_tokens))
    if asked.frequency_penalty:
        rules.append(FrequencyPenalty(asked.frequency_penalty, prompt_tokens))
    return dataclasses.replace(sampler, rules=(*rules, *sampler.rules))


def make_job(
    model: OpenedModel,
    asked: CompletionRequest,
    prompts: Sequence[Prompt],
    emit: Emit,
    fail: Callable[[Exception], None],
) -> Job:
    """The job of a request. Completion `i` is of prompt `i // n`, and drawn as sample `i` of `LanguageModel.generate`.

    Args:
        prompts: of `read_prompts`.
        emit: is called with each event, on the thread of the model.
        fail: is called with the error that ended the job early.

    Raises ApiError if `logit_bias` has an unknown id.
    """
    if asked.logit_bias:
        check_ids(model.tokenizer, list(asked.logit_bias), "logit_bias")
    count = asked.n * len(prompts)
    requests = []
    if asked.max_tokens:
        for index, generator in enumerate(spawn_generators(asked.seed, count)):
            requests.append(make_request(model, asked, prompts[index // asked.n], index, generator, emit))
    return Job(requests, lambda decoder: begin_texts(model, asked, prompts, emit, decoder), fail)


def make_request(
    model: OpenedModel, asked: CompletionRequest, prompt: Prompt, index: int, generator: np.random.Generator, emit: Emit
) -> Request:
    """The scheduler's request for one completion, tagged with what finishes it."""
    tokenizer, config, ids = model.tokenizer, model.config, prompt.ids
    room = min(asked.max_tokens, config.n_ctx - len(ids))
    offset = len(prompt.text) if asked.echo else 0
    completion = Completion(index, tokenizer, asked.stops, room, offset, emit, asked.stream)
    sampler = make_sampler_for(asked, tokenizer.end_of_text, config, len(ids))
    if asked.logprobs is not None:
        sampler = RecordingSampler(sampler.rules, sampler.greedy, top=asked.logprobs, record=completion.record)
    return Request(ids, room, sampler, generator, completion.add, tag=completion.finish)


def begin_texts(
    model: OpenedModel, asked: CompletionRequest, prompts: Sequence[Prompt], emit: Emit, decoder: Decoder
) -> Iterator[None]:
    """Emits the prompts that are echoed, scored if that is asked for, and yields after each part of that."""
    for number, (prompt, given) in enumerate(zip(prompts, asked.prompts, strict=True)):
        tokens: list[ScoredToken] = []
        if asked.echo and asked.logprobs is not None and prompt.text:
            for scores in score_prompt(model, prompt, asked.logprobs, decoder, isinstance(given, str)):
                tokens += scores
                yield
        for index in range(number * asked.n, (number + 1) * asked.n):
            if asked.echo:
                emit(Piece(index, prompt.text, tokens))
            if not asked.max_tokens:
                emit(Finished(index, "length", 0))


def score_prompt(
    model: OpenedModel, prompt: Prompt, top: int, decoder: Decoder, is_text: bool
) -> Iterator[list[ScoredToken]]:
    """Yields the tokens of a prompt, a part at a time, with their log-probabilities.

    Those of a text are the ones of `LanguageModel.logprobs`. Token ids are all that the model reads, so the first of
    them has none.
    """
    offsets = locate_tokens(model.tokenizer, prompt.ids)
    tokens = np.array([model.tokenizer.end_of_text, *prompt.ids] if is_text else prompt.ids)
    if not is_text:
        yield [ScoredToken(name_token(model.tokenizer, prompt.ids[0]), None, None, next(offsets))]
    for logits, targets in predict_after(decoder, tokens, 1):
        ranked: list[TokenLogprobs] = [
            rank_token(row, id, top) for row, id in zip(logits, targets.tolist(), strict=True)
        ]
        yield [name_scores(model.tokenizer, scores, next(offsets)) for scores in ranked]
