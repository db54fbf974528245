"""Texts that complete prompts, several at a time: what the command `generate` prints and a `LanguageModel` returns."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.errors import InputError
from gpt_tf2.generation.samples import spawn_generators
from gpt_tf2.generation.sampling import MinimumLength, Sampler
from gpt_tf2.generation.scheduler import Request
from gpt_tf2.generation.scheduling import make_scheduler
from gpt_tf2.generation.text_stream import TextStream, discard
from gpt_tf2.tokenizer import Tokenizer

MOST_SLOTS = 4096  # sequences at a time: more would gain nothing, and a million would fill the memory


class Prompt(NamedTuple):
    """A text to continue, with its token ids, at least one."""

    text: str
    ids: list[int]


@dataclasses.dataclass(frozen=True)
class CompletionRules:
    """How prompts are completed.

    sampler: chooses each token.
    max_new_tokens: most tokens of a sample. It also ends where the context does, unless it goes on beyond that.
    min_length: fewest tokens of a sample, at most `max_new_tokens`.
    stops: texts that end a sample. They are not part of it.
    n_samples: samples of each prompt.
    seed: of the draws. Sample i is the same whatever their number is.
    slots: how many samples run at a time. The text does not depend on it, up to rounding.
    draft: whether to use speculative decoding by prompt lookup. The text does not depend on it, up to rounding.
    beyond_context: whether a text that fills the context goes on, after its last half context of tokens alone.
    """

    sampler: Sampler
    max_new_tokens: int
    min_length: int = 0
    stops: tuple[str, ...] = ()
    n_samples: int = 1
    seed: int | None = None
    slots: int = 1
    draft: bool = False
    beyond_context: bool = False


@dataclasses.dataclass(frozen=True)
class Sample:
    """A completion of a prompt.

    text: what the model added. tokens: how many that took.
    ended: why it ended: "end" (of the text), "stop" (a stop text), "length", or "context" if that was full before.
    """

    prompt: str
    text: str
    tokens: int
    ended: str


def encode_prompt(tokenizer: Tokenizer, text: str, literal: bool = False) -> Prompt:
    """A text as a prompt. An empty one begins a new text.

    literal: whether `<|endoftext|>` in it is its letters instead of the token; see `Tokenizer.encode`.
    """
    return Prompt(text, tokenizer.encode(text, allow_special=not literal) or [tokenizer.end_of_text])


def check_prompt(model: OpenedModel, prompt: Prompt, rules: CompletionRules, name: str, *where: str) -> None:
    """Raises InputError if a prompt leaves no room in the model's context, or less than the fewest tokens of a sample.

    A sample that goes on beyond the context always has room.

    Args:
        name: what the message calls the prompt.
        where: the setting that the prompt is from and its value, if the message shall begin with them.
    """
    tokens, n_ctx, min_length = len(prompt.ids), model.config.n_ctx, rules.min_length
    if rules.beyond_context and n_ctx > 1:  # half of a single token is none
        return
    if tokens >= n_ctx:
        excess = f"{name} has {tokens} tokens, n_ctx of {model.path} is {n_ctx}"
        raise InputError(f"{excess}: shorten it to {n_ctx - 1} or fewer, or give `beyond_context`", *where)
    if tokens + min_length > n_ctx:
        room = f"{name} has {tokens} of the {n_ctx} tokens of n_ctx, which leaves {n_ctx - tokens}"
        fix = "lower `min_length`, or give `beyond_context`"
        raise InputError(f"{room}, fewer than `min_length` {min_length}: {fix}", *where)


def complete_prompts(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    rules: CompletionRules,
    show: Callable[[str], None] = discard,
) -> Iterator[Sample | None]:
    """Yields the samples of the first prompt, then those of the second, and so on, and None after each step.

    A sample comes once it and those before it are finished.

    Args:
        prompts: each leaves room in the context; see `check_prompt`.
        show: called with each sample's text as it is generated, in pieces of whole characters.

    Example:
        >>> rules = CompletionRules(make_sampler(top_k=40), max_new_tokens=20, n_samples=3)
        >>> prompts = [encode_prompt(tokenizer, "The tide")]
        >>> samples = list(filter(None, complete_prompts(decoder, tokenizer, prompts, rules)))
    """
    end, n_ctx = tokenizer.end_of_text, decoder.config.n_ctx
    slots = min(rules.slots, rules.n_samples * len(prompts), MOST_SLOTS)
    scheduler = make_scheduler(decoder, rules.sampler, end, slots, rules.draft)
    waiting = begin_samples(tokenizer, n_ctx, prompts, rules, show)
    for sample in itertools.islice(waiting, 2 * slots):  # the others as those are finished
        scheduler.submit(make_request(sample, rules, end, n_ctx))
    samples: dict[int, Sample] = {}
    total = 0
    for finished in scheduler.steps():
        if not finished:
            yield None
            continue
        sample = finished.tag
        ended = explain_end(sample, rules, n_ctx)
        if ended == "context" and rules.beyond_context:
            sample.context = fit_context(sample.context, n_ctx)
            scheduler.submit(make_request(sample, rules, end, n_ctx), first=True)
            continue
        for following in itertools.islice(waiting, 1):
            scheduler.submit(make_request(following, rules, end, n_ctx))
        prompt = prompts[sample.number // rules.n_samples].text
        samples[sample.number] = Sample(prompt, sample.stream.finish(), sample.stream.tokens, ended)
        while total in samples:
            yield samples.pop(total)
            total += 1


@dataclasses.dataclass(eq=False)
class RunningSample:
    """A sample that is being generated, by one request for each context that it fills.

    number: among all samples.
    context: the ids that the model reads: the prompt and the new tokens, or the end of these.
    stream: its text.
    """

    number: int
    context: list[int]
    stream: TextStream
    generator: np.random.Generator

    def add(self, id: int) -> bool:
        """Appends a token. Returns False if that ends the text."""
        self.context.append(id)
        return self.stream.add(id)


def begin_samples(
    tokenizer: Tokenizer,
    n_ctx: int,
    prompts: Sequence[Prompt],
    rules: CompletionRules,
    show: Callable[[str], None],
) -> Iterator[RunningSample]:
    """Yields each sample, still without new tokens, when it is asked for."""
    for number, generator in enumerate(spawn_generators(rules.seed, rules.n_samples * len(prompts))):
        context = fit_context(prompts[number // rules.n_samples].ids, n_ctx)
        yield RunningSample(number, context, TextStream(tokenizer, rules.stops, show), generator)


def make_request(sample: RunningSample, rules: CompletionRules, end: int, n_ctx: int) -> Request:
    """A request for the rest of a sample, or for what its context has room for."""
    prompt, done, sampler = list(sample.context), sample.stream.tokens, rules.sampler
    room = min(rules.max_new_tokens - done, n_ctx - len(prompt))
    if done < rules.min_length:  # first, so that a nucleus never holds the end alone
        minimum = MinimumLength(end, len(prompt) + min(rules.min_length - done, room))
        sampler = dataclasses.replace(sampler, rules=(minimum, *sampler.rules))
    return Request(prompt, room, sampler, sample.generator, sample.add, tag=sample)


def explain_end(sample: RunningSample, rules: CompletionRules, n_ctx: int) -> str:
    """Why a request for a sample has ended; see `Sample`."""
    if sample.stream.stopped:
        return "stop"
    if sample.stream.tokens >= rules.max_new_tokens:
        return "length"
    return "context" if len(sample.context) >= n_ctx else "end"


def fit_context(ids: list[int], n_ctx: int) -> list[int]:
    """What the model reads of a text: all of it, or of one that fills the context the last half context of tokens.

    Example:
        >>> fit_context([1, 2, 3], n_ctx=4), fit_context([1, 2, 3, 4, 5], n_ctx=4)
        ([1, 2, 3], [4, 5])
    """
    return list(ids) if len(ids) < n_ctx else ids[-(n_ctx // 2) :]
