"""Completions of many prompts, and samples of one, as tokens or as text."""

from collections.abc import Iterator, Sequence

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.errors import InputError
from gpt_tf2.generation.sampling import Sampler
from gpt_tf2.generation.scheduler import Request
from gpt_tf2.generation.scheduling import make_scheduler
from gpt_tf2.generation.text_stream import TextStream
from gpt_tf2.tokenizer import Tokenizer


def sample_tokens(
    decoder: Decoder,
    prompt: list[int],
    count: int,
    max_new_tokens: int,
    sampler: Sampler,
    end: int,
    seed: int | None = None,
    draft: bool = False,
) -> list[list[int]]:
    """`count` completions of one prompt, which is computed once.

    Args:
        prompt: its ids, at least one.
        max_new_tokens: of each completion; it also ends where the context does.
        end: the id that ends a completion.
        seed: of the draws. Completion i is the same whatever `count` is.
        draft: whether to use speculative decoding by prompt lookup; the tokens are the same.

    Returns:
        The new ids of each completion, without `end`.

    Raises InputError if the prompt leaves no room in the context.

    Example:
        >>> sample_tokens(decoder, tokenizer.encode("The tide"), 3, 20, make_sampler(top_k=40), tokenizer.end_of_text)
    """
    n_ctx = decoder.config.n_ctx
    if len(prompt) >= n_ctx:
        raise InputError(f"the prompt has {len(prompt)} tokens, n_ctx is {n_ctx}: shorten it to at most {n_ctx - 1}")
    return complete(decoder, [prompt] * count, max_new_tokens, sampler, end, count, seed, draft)


def complete(
    decoder: Decoder,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    sampler: Sampler,
    end: int,
    slots: int,
    seed: int | None = None,
    draft: bool = False,
) -> list[list[int]]:
    """A completion of each prompt, `slots` at a time.

    Args:
        prompts: the ids of each, at least one and fewer than n_ctx.
        slots: how many run at a time. The tokens do not depend on it.

    The other arguments and the result are those of `sample_tokens`.

    Example:
        >>> complete(GraphDecoder(model), prompts, 200, make_sampler(top_p=0.8), end=-1, slots=64)
    """
    completions: list[list[int]] = [[] for _ in prompts]
    make_scheduler(decoder, sampler, end, slots, draft).run_all(
        Request(prompt, max_new_tokens, sampler, generator, ids.append)
        for prompt, ids, generator in zip(prompts, completions, spawn_generators(seed, len(prompts)), strict=True)
    )
    return completions


def sample_text(
    decoder: Decoder, tokenizer: Tokenizer, prompt: list[int], max_new_tokens: int, sampler: Sampler, seed: int | None
) -> str:
    """One completion as text, without an incomplete last character. An empty prompt begins a new text."""
    end = tokenizer.end_of_text
    (ids,) = sample_tokens(decoder, prompt or [end], 1, max_new_tokens, sampler, end, seed)
    stream = TextStream(tokenizer)
    for id in ids:
        stream.add(id)
    return stream.finish()


def spawn_generators(seed: int | None, count: int) -> Iterator[np.random.Generator]:
    """Yields `count` independent random generators; the i-th is the same whatever `count` is."""
    sequence = np.random.SeedSequence(seed)
    for _ in range(count):  # one by one: a billion at once would fill the memory
        yield np.random.default_rng(sequence.spawn(1)[0])
