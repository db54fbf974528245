"""Predictions of a model for the examples of a task: turn after turn, several examples at a time."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpt_tf2.backend.workers import Workers
from gpt_tf2.data.encoding import encode_text
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.shared_journal import SharedJournal
from gpt_tf2.generation.prompts import build_prompt
from gpt_tf2.generation.sampling import Sampler
from gpt_tf2.generation.scheduler import Request
from gpt_tf2.generation.scheduling import make_scheduler
from gpt_tf2.generation.text_stream import TextStream
from gpt_tf2.tasks.task import Example, Prediction
from gpt_tf2.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
    """How completions are asked for. An evaluation resumes only under the same protocol.

    slots: how many examples run at a time.
    max_new_tokens: of a completion; fewer than the model's n_ctx.
    sampler: chooses each token.
    seed: of the draws.
    stop: a completion ends before this text; "" leaves that to the end-of-text token.
    gold_history: whether earlier turns show the data's completions instead of the model's own.
    draft: whether to use speculative decoding by prompt lookup; the predictions are the same.
    num_trials: samples of each example.
    """

    slots: int
    max_new_tokens: int
    sampler: Sampler
    seed: int
    stop: str
    gold_history: bool
    draft: bool
    num_trials: int = 1


@dataclasses.dataclass(eq=False)
class Conversation:
    """An example and the completions of its turns so far, in one sample after another.

    index: among the examples of this evaluation. number: of its item among those of the split.
    passage: its token ids. num_trials: the samples. shortened: how many prompts did not fit and were shortened.
    """

    index: int
    number: int
    example: Example
    passage: list[int]
    num_trials: int = 1
    completions: list[str] = dataclasses.field(default_factory=list)
    shortened: int = 0

    @property
    def missing(self) -> int:
        """How many completions are to come."""
        return self.num_trials * len(self.example.turns) - len(self.completions)

    @property
    def is_complete(self) -> bool:
        return self.missing == 0

    @property
    def key(self) -> str:
        """The next turn's key in the journal."""
        return f"{len(self.completions)}:{self.index}"

    def resume(self, journal: SharedJournal) -> None:
        """Takes the completions that the journal has."""
        while not self.is_complete and (completion := journal.get(self.key)) is not None:
            self.completions.append(completion)

    def request_next(self, protocol: EvaluationProtocol, tokenizer: Tokenizer, n_ctx: int) -> Request:
        """A request for the next turn, tagged with the conversation and the completion's text stream."""
        trial, turn = divmod(len(self.completions), len(self.example.turns))
        history = self.completions[len(self.completions) - turn :]
        if protocol.gold_history:
            history = [earlier.completions[0] for earlier in self.example.turns[:turn]]
        room = n_ctx - protocol.max_new_tokens
        prompt, is_whole = build_prompt(self.passage, self.example, history, room, tokenizer)
        self.shortened += not (is_whole or trial)  # the other samples have the same prompts
        generator = np.random.default_rng([protocol.seed, self.number, turn, *([trial] if trial else [])])
        stream = TextStream(tokenizer, [protocol.stop] if protocol.stop else [])
        tag = (self, stream)
        return Request(prompt, protocol.max_new_tokens, protocol.sampler, generator, stream.add, tag)


def predict(
    decoders: Sequence[Decoder],
    tokenizer: Tokenizer,
    examples: Sequence[tuple[int, Example]],
    protocol: EvaluationProtocol,
    workers: Workers,
    journal: SharedJournal,
    show: Callable[[int, int | None], None],
) -> tuple[list[Prediction], int]:
    """A prediction for each example, and how many prompts had to be shortened: the same in every process.

    Draws depend on the seed, the item's number and the turn alone, so an interrupted evaluation resumes exactly:
    completions that the journal has are not generated again, new ones are added to it.

    Args:
        decoders: the model on each of the workers' devices.
        examples: with the numbers of their items.
        show: called with the number of completions so far, and in all, without those that other processes make.
    """
    encode = functools.partial(encode_text, tokenizer=tokenizer)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        passages = list(threads.map(encode, (example.passage for _, example in examples)))
    conversations = [
        Conversation(index, number, example, passage, protocol.num_trials)
        for index, ((number, example), passage) in enumerate(zip(examples, passages, strict=True))
    ]
    for conversation in conversations:
        conversation.resume(journal)
    done = sum(len(conversation.completions) for conversation in conversations)

    # Sequences of similar length waste the least memory and padding.
    by_length = sorted(conversations, key=lambda conversation: len(conversation.passage))
    share = workers.share([conversation for conversation in by_length if not conversation.is_complete])
    total = done + sum(each.missing for each in share)
    at_first = min(protocol.slots, -(-len(share) // len(decoders)))  # no device takes more than its part
    functions = [functools.partial(complete, decoder, tokenizer, protocol, at_first) for decoder in decoders]
    for key, completion in workers.run(functions, share):
        journal.put(key, completion)
        done += 1
        show(done, total)
    journal.gather()
    for conversation in conversations:
        conversation.resume(journal)
    predictions = [Prediction(each.number, each.example, tuple(each.completions)) for each in conversations]
    return predictions, sum(workers.exchange(sum(each.shortened for each in conversations)))


def complete(
    decoder: Decoder,
    tokenizer: Tokenizer,
    protocol: EvaluationProtocol,
    at_first: int,
    waiting: Iterator[Conversation],
) -> Iterator[tuple[str, str]]:
    """Completes conversations turn after turn, and yields each completion with its key in the journal.

    at_first: how many conversations to take at the beginning. Another is taken whenever one is complete.
    """
    scheduler = make_scheduler(decoder, protocol.sampler, tokenizer.end_of_text, protocol.slots, protocol.draft)
    n_ctx = decoder.config.n_ctx
    for conversation in itertools.islice(waiting, at_first):
        scheduler.submit(conversation.request_next(protocol, tokenizer, n_ctx))
    for request in scheduler.run():
        conversation, stream = request.tag
        completion = stream.finish()
        yield conversation.key, completion
        conversation.completions.append(completion)
        # The next turn, or sample, gets the slot that has the passage cached.
        following = next(waiting, None) if conversation.is_complete else conversation
        if following is not None:
            scheduler.submit(following.request_next(protocol, tokenizer, n_ctx))
