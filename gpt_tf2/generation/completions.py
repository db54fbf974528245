"""Texts that complete prompts, several at a time: what the command `generate` prints and a `LanguageModel` returns."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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
    max_new_tokens: most tokens of a sample. It also ends where the context does.
    min_length: fewest tokens of a sample, at most `max_new_tokens`.
    stops: texts that end a sample. They are not part of it.
    n_samples: samples of each prompt.
    seed: of the draws. Sample i is the same whatever their number is.
    slots: how many samples run at a time. The text does not depend on it, up to rounding.
    draft: whether to use speculative decoding by prompt lookup. The text does not depend on it, up to rounding.
    """

    sampler: Sampler
    max_new_tokens: int
    min_length: int = 0
    stops: tuple[str, ...] = ()
    n_samples: int = 1
    seed: int | None = None
    slots: int = 1
    draft: bool = False


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

    literal: whether `<|endoftext|>` in it is its letters instead of the token.
    """
    return Prompt(text, tokenizer.encode(text, not literal) or [tokenizer.end_of_text])


def check_prompt(model: OpenedModel, prompt: Prompt, min_length: int, name: str, *where: str) -> None:
    """Raises InputError if a prompt leaves no room in the model's context, or less than `min_length`.

    Args:
        name: what the message calls the prompt.
        where: the setting that the prompt is from and its value, if the message shall begin with them.
    """
    tokens, n_ctx = len(prompt.ids), model.config.n_ctx
    if tokens >= n_ctx:
        excess = f"{name} has {tokens} tokens, n_ctx of {model.path} is {n_ctx}"
        raise InputError(f"{excess}: shorten it to {n_ctx - 1} or fewer", *where)
    if tokens + min_length > n_ctx:
        room = f"{name} has {tokens} of the {n_ctx} tokens of n_ctx, which leaves {n_ctx - tokens}"
        raise InputError(f"{room}, fewer than `min_length` {min_length}: lower `min_length`", *where)


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
    slots = min(rules.slots, rules.n_samples * len(prompts), MOST_SLOTS)
    scheduler = make_scheduler(decoder, rules.sampler, tokenizer.end_of_text, slots, rules.draft)
    requests = make_requests(tokenizer, decoder.config.n_ctx, prompts, rules, show)
    for request in itertools.islice(requests, 2 * slots):  # the others as those are finished
        scheduler.submit(request)
    samples: dict[int, Sample] = {}
    total = 0
    for finished in scheduler.steps():
        if not finished:
            yield None
            continue
        for following in itertools.islice(requests, 1):
            scheduler.submit(following)
        number, stream = finished.tag
        ended = "stop" if stream.stopped else "end"
        if ended == "end" and stream.tokens >= finished.max_new_tokens:
            ended = "length" if stream.tokens >= rules.max_new_tokens else "context"
        prompt = prompts[number // rules.n_samples].text
        samples[number] = Sample(prompt, stream.finish(), stream.tokens, ended)
        while total in samples:
            yield samples.pop(total)
            total += 1


def make_requests(
    tokenizer: Tokenizer,
    n_ctx: int,
    prompts: Sequence[Prompt],
    rules: CompletionRules,
    show: Callable[[str], None],
) -> Iterator[Request]:
    """Yields a request for each sample, tagged with its number and its text, when it is asked for."""
    for number, generator in enumerate(spawn_generators(rules.seed, rules.n_samples * len(prompts))):
        ids = prompts[number // rules.n_samples].ids
        sampler = rules.sampler
        if rules.min_length:  # first, so that a nucleus never holds the end alone
            minimum = MinimumLength(tokenizer.end_of_text, len(ids) + rules.min_length)
            sampler = dataclasses.replace(sampler, rules=(minimum, *sampler.rules))
        stream = TextStream(tokenizer, rules.stops, show)
        room = min(rules.max_new_tokens, n_ctx - len(ids))
        yield Request(ids, room, sampler, generator, stream.add, tag=(number, stream))
