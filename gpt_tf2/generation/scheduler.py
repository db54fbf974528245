"""Complete many prompts with one decoder: each runs in a slot, and a finished one makes room for the next.

Every step of the decoder serves all slots: the last token of each sequence, with draft tokens, and part of the new
prompts. A token is computed once: a new sequence copies the keys and values of its longest shared prefix.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpt_tf2.decoding.decoder import Choice, Decoder, DrawingDecoder, compute_drawable
from gpt_tf2.generation.model_draft import Draftable, ModelDrafter
from gpt_tf2.generation.prefixes import count_shared
from gpt_tf2.generation.prompt_lookup import PromptLookup
from gpt_tf2.generation.sampling import Sampler, peek_numbers

DRAFT_TOKENS = 6  # most draft tokens per step and sequence
SECONDS_AHEAD = 0.01  # of steps that a decoder may run in one call: twice that gained nothing and held up new requests
STEPS_AHEAD = 16  # at most
MIN_GAIN = 16  # tokens that a longer shared prefix must save to be copied from another slot, or waited for


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A prompt to complete.

    Everything in it belongs to the caller. The scheduler copies the prompt, calls `sampler` and `on_token`, and
    advances `generator`.

    prompt: token ids, at least one and fewer than n_ctx.
    max_new_tokens: the completion's maximum length, at least 1. It also ends where the context does.
    sampler: chooses each token.
    generator: what the sampler draws from. Requests that run at the same time need a generator each.
    on_token: called with each new id, in order, but not with the end of the text. If it returns False, the completion
        ends there; `list.append`, which returns None, is fine.
    tag: anything the caller needs to handle the finished request. The scheduler does not look at it.
    """

    prompt: list[int]
    max_new_tokens: int
    sampler: Sampler
    generator: np.random.Generator
    on_token: Callable[[int], bool | None]
    tag: Any = None


class BaseScheduler:
    """Completes requests: the interface of every scheduler."""

    def __init__(self) -> None:
        self._waiting: collections.deque[Request] = collections.deque()

    def submit(self, request: Request, first: bool = False) -> None:
        """Adds a request. It starts during `run`, after those submitted before it, or `first` of all that wait."""
        (self._waiting.appendleft if first else self._waiting.append)(request)

    def cancel(self, request: Request) -> None:
        """Drops a request that waits or runs, and which `steps` then does not yield. Its slot is free at the next step.

        Call it between two steps, from the thread that iterates.
        """
        if request in self._waiting:
            self._waiting.remove(request)
        else:
            self._stop(request)

    def _stop(self, request: Request) -> None:
        """Drops a request that runs, if it still does."""
        raise NotImplementedError

    def run_all(self, requests: Iterable[Request]) -> None:
        """Completes requests whose `on_token` is all that the caller needs."""
        for request in requests:
            self.submit(request)
        for _ in self.run():
            pass

    def run(self) -> Iterator[Request]:
        """Yields each submitted request when it is finished, until there are none left.

        The caller may submit more while it iterates. The slot of the yielded request goes to the first one that waits.

        Iterate to the end: the requests that are in slots when the iteration is abandoned are lost.
        """
        return (request for request in self.steps() if request)

    def steps(self) -> Iterator[Request | None]:
        """Like `run`, but also yields None after each step, for a caller that shows text or shares the decoder."""
        raise NotImplementedError


class ActiveSequence:
    """A request in a slot, with the tokens it has so far.

    Attributes:
        ids: the prompt and the new tokens. The first `cached` of them are cached in the decoder's state.
        admitted: whether it has cached positions of its own. Until then it waits for another sequence to compute
            their shared prefix.
        running: False once it is finished. Its cached positions stay available until its slot is taken.
        prompt_logits: float32 [n_vocab], of the token after the prompt, once the prompt is cached.
        choice: its sampler's rules, if a decoder can follow them by itself.
        left: how many more tokens it may get.
    """

    def __init__(self, request: Request, n_ctx: int):
        self.request = request
        self.ids = list(request.prompt)
        self.cached = 0
        self.admitted = False
        self.running = True
        self.prompt_logits: np.ndarray | None = None
        self.choice = request.sampler.as_choice()
        self.left = min(request.max_new_tokens, n_ctx - len(request.prompt))
        self._lookup = PromptLookup()

    @property
    def generated(self) -> int:
        """How many new tokens it has."""
        return len(self.ids) - len(self.request.prompt)

    @property
    def is_computing_prompt(self) -> bool:
        return self.admitted and self.running and self.prompt_logits is None

    def append_next(self, logits: np.ndarray, end: int) -> None:
        """Chooses the next token from logits [n_vocab] and appends it, or finishes if it is `end`."""
        self._append(self.request.sampler.choose(logits, self.ids, self.request.generator), end)

    def append_drawn(self, ids: list[int], end: int) -> None:
        """Appends tokens that the decoder has drawn with `peek_numbers`, until the sequence is finished.

        All but the last of them are cached.
        """
        for i, id in enumerate(ids):
            if self.choice and self.choice.temperature:
                self.request.generator.random()  # the one that was used
            self.cached += i > 0
            self._append(id, end)
            if not self.running:
                return

    def _append(self, id: int, end: int) -> None:
        self.running = id != end
        if self.running:
            self.ids.append(id)
            self.left -= 1
            self.running = self.request.on_token(id) is not False and self.left > 0

    def look_up_draft(self) -> list[int]:
        """Draft tokens; one fewer than may follow, since each step adds a token after them."""
        return self._lookup.propose(self.ids, min(DRAFT_TOKENS, self.left - 1))

    def as_draftable(self) -> Draftable:
        """What a model needs to draft tokens."""
        return Draftable(self.ids, self.left, self.request.sampler, self.request.generator)

    def prefers(self, shared: int, alternative: int) -> bool:
        """Whether a shared prefix is worth a copy or a wait, when one of `alternative` tokens costs neither."""
        return shared >= alternative + MIN_GAIN or shared >= len(self.request.prompt) > alternative


class Scheduler(BaseScheduler):
    """Completes requests, several at a time.

    Which tokens a request gets depends on the request alone, up to rounding in the decoder: not on the slots, the
    draft or the other requests. Cached positions survive between runs, so a prompt that continues an earlier sequence
    only computes what is new.

    Args:
        decoder: computes the logits. The scheduler owns the state that it begins.
        end: the id that ends a completion.
        slots: how many requests run at a time.
        draft: whether to look up draft tokens in the sequences: speculative decoding by prompt lookup. Where that finds
            none, the decoder's drafter proposes some, if it has one.

    Example:
        >>> scheduler = Scheduler(decoder, tokenizer.end_of_text, slots=8)
        >>> for i, prompt in enumerate(prompts):
        ...     on_token = completions[i].append
        ...     scheduler.submit(Request(prompt, 100, sampler, np.random.default_rng(i), on_token, tag=i))
        >>> for request in scheduler.run():
        ...     print(request.tag, completions[request.tag])
    """

    def __init__(self, decoder: Decoder, end: int, slots: int, draft: bool = False):
        super().__init__()
        self.decoder, self.end, self.slots, self.draft = decoder, end, slots, draft
        self._state = decoder.begin()
        self._drafter = ModelDrafter(decoder.drafter, end) if decoder.drafter else None
        self._drawing = decoder if isinstance(decoder, DrawingDecoder) else None
        self._steps_ahead = 1  # how many steps the decoder may run in one call
        self._in_state: list[ActiveSequence] = []  # the sequences of the state, finished ones included
        self._in_slots: list[ActiveSequence] = []  # those that the next step runs

    def steps(self) -> Iterator[Request | None]:
        """Yields each submitted request when it is finished, and None after each step; see `BaseScheduler.steps`.

        If nothing waits, a conversation's next turn gets the slot that has its passage.
        """
        sequences = self._in_slots = []
        if self._drafter:
            self._drafter.begin()
        self._fill_slots(sequences)
        while sequences:
            ran = [sequence.running for sequence in sequences]
            self._arrange(sequences)
            self._step()
            for slot, sequence in enumerate(sequences):
                if ran[slot] and not sequence.running:
                    yield sequence.request
                    if self._waiting:
                        sequences[slot] = self._next_sequence()
            running = [sequence for sequence in sequences if sequence.running]
            if 2 * len(running) <= len(sequences):  # not whenever one ends, as that copies all the others
                sequences[:] = running
            yield None
            self._fill_slots(sequences)  # here, so that what the caller submits or cancels counts at once

    def _stop(self, request: Request) -> None:
        for sequence in self._in_slots:
            if sequence.request is request:
                sequence.running = False

    def _next_sequence(self) -> ActiveSequence:
        return ActiveSequence(self._waiting.popleft(), self.decoder.config.n_ctx)

    def _fill_slots(self, sequences: list[ActiveSequence]) -> None:
        """Starts waiting requests in slots that are free."""
        for slot in range(self.slots):
            if self._waiting and slot == len(sequences):
                sequences.append(self._next_sequence())
            elif self._waiting and not sequences[slot].running:
                sequences[slot] = self._next_sequence()

    def _arrange(self, sequences: list[ActiveSequence]) -> None:
        """Makes the state hold these sequences in this order, and admits new ones.

        A new sequence starts with the positions cached for its longest shared prefix. If a sequence that is being
        computed will soon share much more, it waits instead.
        """
        cached = [(sequence.ids, sequence.cached) for sequence in self._in_state]
        prefixes = []  # for each sequence, the one in the state that it starts from, and how many tokens of it
        for slot, sequence in enumerate(sequences):
            if sequence.admitted:
                prefixes.append((self._in_state.index(sequence), sequence.cached))
                continue
            self._start_from_known_logits(sequence)
            shared = [min(count_shared(sequence.ids[:-1], ids), count) for ids, count in cached] or [0]
            source = min(slot, len(shared) - 1)  # the slot's own positions need no copy
            if sequence.prefers(max(shared), shared[source]):
                source = shared.index(max(shared))
            upcoming = [
                count_shared(sequence.request.prompt, other.request.prompt)
                for other in sequences
                if other.is_computing_prompt
            ]
            sequence.admitted = not sequence.prefers(max(upcoming, default=0), shared[source])
            sequence.cached = shared[source] if sequence.admitted else 0
            prefixes.append((source, sequence.cached))
        self._state, self._in_state = self.decoder.take(self._state, prefixes), list(sequences)
        if self._drafter:
            self._drafter.take(prefixes)

    def _start_from_known_logits(self, sequence: ActiveSequence) -> None:
        """Appends a waiting sequence's first token if another with the same prompt has computed the logits."""
        if sequence.prompt_logits is not None or not sequence.running:
            return
        for other in self._in_state:
            if other.prompt_logits is not None and other.request.prompt == sequence.request.prompt:
                sequence.prompt_logits = other.prompt_logits
                sequence.append_next(other.prompt_logits, self.end)
                return

    def _step(self) -> None:
        """Runs the decoder once, and appends one token or more to each sequence whose prompt is cached."""
        new, drafts = self._plan_step()
        if not any(new):  # every sequence ended with its first token, from known logits
            return
        if self._drawing and (choices := self._list_choices(drafts)):
            self._draw(self._drawing, new, choices)
            return
        self._steps_ahead = 1
        wanted = [0 if draft is None else 1 + len(draft) for draft in drafts]
        logits = compute_drawable(self.decoder, self._state, new, wanted)
        row = 0
        for sequence, draft, count in zip(self._in_state, drafts, wanted, strict=True):
            if draft is not None:
                self._append_verified(sequence, draft, logits[row : row + count])
            row += count
        self._forget_rest()

    def _forget_rest(self) -> None:
        """Makes the state end where the sequences' cached positions do."""
        self._state.lengths = np.array([sequence.cached for sequence in self._in_state], "int32")

    def _list_choices(self, drafts: list[list[int] | None]) -> list[Choice]:
        """The rules of the running sequences, if the decoder can follow them and each runs its last token alone."""
        choices = []
        for sequence, draft in zip(self._in_state, drafts, strict=True):
            if sequence.running:
                if draft != [] or sequence.prompt_logits is None or sequence.choice is None:
                    return []
                choices.append(sequence.choice)
        return choices

    def _draw(self, decoder: DrawingDecoder, last: list[list[int]], choices: list[Choice]) -> None:
        """Has the decoder draw tokens, in several steps unless draft tokens may come between them.

        No sequence runs more steps than it has new tokens: one that its caller soon ends wastes few.
        """
        running = [sequence for sequence in self._in_state if sequence.running]
        most = 1 if self.draft or self._drafter else self._steps_ahead
        steps = min(most, *(min(sequence.left, sequence.generated) for sequence in running))
        uniforms = np.array([peek_numbers(sequence.request.generator, steps) for sequence in running])
        began = time.monotonic()
        tokens = decoder.draw(self._state, last, choices, uniforms, self.end)
        seconds = (time.monotonic() - began) / tokens.shape[1]
        self._steps_ahead = max(1, min(STEPS_AHEAD, int(SECONDS_AHEAD / seconds)))
        for sequence, ids in zip(running, tokens.tolist(), strict=True):
            sequence.append_drawn(ids, self.end)
        self._forget_rest()

    def _plan_step(self) -> tuple[list[list[int]], list[list[int] | None]]:
        """The tokens that each sequence runs, and its draft tokens among them; None while its prompt goes on."""
        room = self.decoder.prefill_chunk
        new: list[list[int]] = []
        drafts: list[list[int] | None] = []
        for sequence in self._in_state:
            part = sequence.ids[sequence.cached :] if sequence.running and sequence.admitted else []
            if len(part) > 1:
                part = part[:room]
                room -= len(part)
            sequence.cached += len(part)
            is_ready = part and sequence.cached == len(sequence.ids)
            new.append(part)
            drafts.append((sequence.look_up_draft() if self.draft else []) if is_ready else None)
        if self._drafter:
            self._draft_rest(self._drafter, drafts)
        return [[*part, *(draft or [])] for part, draft in zip(new, drafts, strict=True)], drafts

    def _draft_rest(self, drafter: ModelDrafter, drafts: list[list[int] | None]) -> None:
        """Fills the drafts that are still empty, but for those after a prompt, which would delay the first token."""
        asked = [
            sequence.as_draftable() if draft == [] and sequence.prompt_logits is not None else None
            for sequence, draft in zip(self._in_state, drafts, strict=True)
        ]
        for draft, proposed in zip(drafts, drafter.propose(asked), strict=True):
            if draft is not None:
                draft += proposed

    def _append_verified(self, sequence: ActiveSequence, draft: list[int], logits: np.ndarray) -> None:
        """Appends the token that follows, and more as long as each is the draft token that the decoder ran.

        logits: [1 + len(draft), n_vocab], of the token after the sequence and after each draft token.
        """
        if sequence.prompt_logits is None:
            sequence.prompt_logits = logits[0].copy()
        for next_logits, drafted in zip(logits, [*draft, None], strict=True):
            sequence.append_next(next_logits, self.end)
            if not sequence.running or sequence.ids[-1] != drafted:
                return
            sequence.cached += 1
