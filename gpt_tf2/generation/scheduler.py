"""From prompts to tokens: several rows at a time, and a row that has ended makes room for the next prompt."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.errors import InputError
from gpt_tf2.generation.prompt_lookup import COUNT, Lookup
from gpt_tf2.generation.sampling import Sampler

WORTH = 16  # tokens in common from which on a beginning is copied, or waited for, instead of computed


@dataclasses.dataclass
class Request:
    """A completion that is asked for.

    prompt: ids, at least one and less than n_ctx.
    new_tokens: the most it gets; the context's end may come earlier.
    sampler, generator: how its tokens are chosen, and of its draws.
    write: is called with each new id but the end's; False ends the row.
    key: the caller's.
    """

    prompt: list[int]
    new_tokens: int
    sampler: Sampler
    generator: np.random.Generator
    write: Callable[[int], bool]
    key: Any = None


Following = Callable[[Request | None], Request | None]


@dataclasses.dataclass(eq=False)
class Row:
    """A request on its way.

    ids: the prompt and what has been added, of which the first `cached` are in the state.
    placed: whether its place in the state is its own; until then it waits for what it has in common with another row.
    after: logits of what follows the prompt, as soon as they are known.
    """

    request: Request
    ids: list[int]
    left: int
    lookup: Lookup
    cached: int = 0
    running: bool = True
    placed: bool = False
    after: np.ndarray | None = None

    def choose(self, logits: np.ndarray, end: int) -> None:
        """Adds the token that is chosen from logits [n_vocab]; `end` is not added."""
        id = self.request.sampler.choose(logits, self.ids, self.request.generator)
        self.running = id != end
        if self.running:
            self.ids.append(id)
            self.left -= 1
            self.running = self.request.write(id) and self.left > 0

    def gains(self, tokens: int, instead: int) -> bool:
        """Whether so many of its first tokens are worth getting where there are others without effort."""
        return tokens >= instead + WORTH or tokens >= len(self.request.prompt) > instead


class Generator:
    """Completes requests with a decoder.

    A step runs the last token of each row that goes on, and along with these a part of the prompts of new rows.

    Args:
        end: the id at which a row stops.
        draft: whether tokens are guessed and verified several at once; which tokens are chosen does not depend on it.
    """

    def __init__(self, decoder: Decoder, end: int, draft: bool = False):
        self.decoder, self.end, self.draft = decoder, end, draft
        self.state = decoder.begin()
        self.rows: list[Row] = []  # of the state; one that has ended stays until its place is taken

    def run_all(self, requests: Iterable[Request], places: int) -> None:
        """Completes requests that do not depend on each other, so many rows at a time."""
        waiting = iter(requests)
        self.run(lambda done: next(waiting, None), places)

    def run(self, following: Following, places: int) -> None:
        """Completes requests until there are no more, so many rows at a time.

        Args:
            following: is given the request that is completed, None at the beginning, and gives the one that takes its
                place, or None.
        """
        rows = [self._row(request) for request in itertools.islice(iter(lambda: following(None), None), places)]
        while rows:
            stepped = [row.running for row in rows]
            self._place(rows)
            self._step()
            for i, row in enumerate(rows):
                if stepped[i] and not row.running and (request := following(row.request)):
                    rows[i] = self._row(request)
            running = [row for row in rows if row.running]
            if 2 * len(running) <= len(rows):  # not each time that one ends, as the others are copied
                rows = running

    def _row(self, request: Request) -> Row:
        left = min(request.new_tokens, self.decoder.config.n_ctx - len(request.prompt))
        return Row(request, list(request.prompt), left, Lookup())

    def _place(self, rows: list[Row]) -> None:
        """Makes the state that of these rows.

        A new row begins with what it has in common with a row of the state, or waits if more of it is being run.
        """
        cached = [(row.ids, row.cached) for row in self.rows]
        places = []
        for i, row in enumerate(rows):
            if row.placed:
                places.append((self.rows.index(row), row.cached))
                continue
            self._begin(row)
            common = [min(in_common(row.ids[:-1], ids), count) for ids, count in cached] or [0]
            source, most = min(i, len(common) - 1), max(common)
            if row.gains(most, common[source]):
                source = common.index(most)
            coming = [
                in_common(row.request.prompt, other.request.prompt)
                for other in rows
                if other.placed and other.running and other.after is None
            ]
            row.placed = not row.gains(max(coming, default=0), common[source])
            row.cached = common[source] if row.placed else 0
            places.append((source, row.cached))
        self.state, self.rows = self.decoder.take(self.state, places), list(rows)

    def _begin(self, row: Row) -> None:
        """Chooses a row's first token if its prompt has been run."""
        if row.after is None:
            same = [other for other in self.rows if other.request.prompt == row.request.prompt]
            row.after = next((other.after for other in same if other.after is not None), None)
            if row.after is not None:
                row.choose(row.after, self.end)

    def _step(self) -> None:
        """One token of every row whose prompt has been run, or more where guesses are right, and a part of prompts."""
        room, new = self.decoder.chunk, []
        guesses: list[list[int] | None] = []  # None where the prompt goes on
        for row in self.rows:
            part = row.ids[row.cached :] if row.running and row.placed else []
            if len(part) > 1:
                part = part[:room]
                room -= len(part)
            row.cached += len(part)
            guess = self._guess(row) if part and row.cached == len(row.ids) else None
            guesses.append(guess)
            new.append([*part, *(guess or [])])
        if not any(new):  # all have ended with what was known
            return
        wanted = [0 if guess is None else 1 + len(guess) for guess in guesses]
        after = np.split(self.decoder.extend(self.state, new, wanted), np.cumsum(wanted)[:-1])
        for row, guess, logits in zip(self.rows, guesses, after, strict=True):
            if guess is None:
                continue
            if row.after is None:
                row.after = logits[0].copy()
            for one, guessed in zip(logits, [*guess, None], strict=True):
                row.choose(one, self.end)
                if not row.running or row.ids[-1] != guessed:
                    break
                row.cached += 1
        self.state.lengths = np.array([row.cached for row in self.rows], "int32")

    def _guess(self, row: Row) -> list[int]:
        return row.lookup.guess(row.ids, min(COUNT, row.left - 1)) if self.draft else []


def sample(
    decoder: Decoder,
    prompt: list[int],
    count: int,
    new_tokens: int,
    sampler: Sampler,
    end: int,
    seed: int | None = None,
    draft: bool = False,
) -> list[list[int]]:
    """`count` continuations of one prompt, which is run once.

    Args:
        prompt: its ids, at least one.
        new_tokens: the most each row gets; the context's end may come earlier.
        end: the id at which a row stops.
        seed: of the draws. Row i is the same whatever `count` is.

    Returns:
        The new ids of each row, without `end`.

    Raises InputError if the prompt leaves no room in the context.
    """
    n_ctx = decoder.config.n_ctx
    if len(prompt) >= n_ctx:
        raise InputError(f"--starter has {len(prompt)} tokens, n_ctx is {n_ctx}: give at most {n_ctx - 1}")
    rows: list[list[int]] = [[] for _ in range(count)]

    requests = [
        Request(prompt, new_tokens, sampler, generator, functools.partial(appended, row))
        for row, generator in zip(rows, row_generators(seed, count), strict=True)
    ]
    Generator(decoder, end, draft).run_all(requests, count)
    return rows


def appended(row: list[int], id: int) -> bool:
    """Appends an id to a row, which goes on."""
    row.append(id)
    return True


def row_generators(seed: int | None, count: int) -> list[np.random.Generator]:
    """The generators of so many rows; a row's is the same whatever their number."""
    return [np.random.default_rng(row) for row in np.random.SeedSequence(seed).spawn(count)]


def in_common(a: list[int], b: list[int]) -> int:
    """How many ids two rows have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
