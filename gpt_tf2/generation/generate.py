"""From prompts to tokens: several rows at a time, and a row that has ended makes room for the next prompt."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.generation.decoder import Decoder, State
from gpt_tf2.generation.drafting import COUNT, Lookup
from gpt_tf2.generation.sampling import Sampler

WORTH = 16  # tokens in common from which on a beginning is copied instead of computed


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


@dataclasses.dataclass
class Row:
    """A request on its way. ids: the prompt and what has been added."""

    request: Request
    ids: list[int]
    left: int
    lookup: Lookup
    running: bool = True

    def choose(self, logits: np.ndarray, end: int) -> None:
        """Adds the token that is chosen from logits [n_vocab]; `end` is not added."""
        id = self.request.sampler.choose(logits, self.ids, self.request.generator)
        self.running = id != end
        if self.running:
            self.ids.append(id)
            self.left -= 1
            self.running = self.request.write(id) and self.left > 0


class Generator:
    """Completes requests with a decoder.

    Args:
        end: the id at which a row stops.
        draft: whether tokens are guessed and verified several at once; which tokens are chosen does not depend on it.
    """

    def __init__(self, decoder: Decoder, end: int, draft: bool = False):
        self.decoder, self.end, self.draft = decoder, end, draft
        self.prompt: list[int] = []  # that was run last, its state and the logits after it
        self.after: tuple[State, np.ndarray] | None = None

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
        begun = list(itertools.islice(iter(lambda: self._begin(following), None), places))
        rows, states = [row for row, _ in begun], [(state, 0) for _, state in begun]
        del begun
        while rows:
            alone = len(states) == len(states[0][0].lengths) == 1
            state = states[0][0] if alone else self.decoder.take(states)
            del states
            while all(row.running for row in rows):
                self._step(state, rows)
                for i, row in enumerate(rows):
                    if not row.running and (new := self._begin(following, row, (state, i))):
                        rows[i], one = new
                        if len(rows) == 1:
                            state = one
                        else:
                            self.decoder.put(state, i, one)
            states = [(state, i) for i, row in enumerate(rows) if row.running]
            rows = [row for row in rows if row.running]

    def _begin(
        self, following: Following, row: Row | None = None, place: tuple[State, int] | None = None
    ) -> tuple[Row, State] | None:
        """The next request that is not completed by its first token, with a state of its own; None if there is none.

        row, place: what is completed, and where it is cached.
        """
        while request := following(row.request if row else None):
            state, logits = self._prefill(request.prompt, row.ids if row else [], place)
            left = min(request.new_tokens, self.decoder.config.n_ctx - len(request.prompt))
            row, place = Row(request, list(request.prompt), left, Lookup()), (state, 0)
            row.choose(logits, self.end)
            if row.running:
                return row, state
        return None

    def _prefill(self, prompt: list[int], ids: list[int], place: tuple[State, int] | None) -> tuple[State, np.ndarray]:
        """A state of a prompt, and the logits of what follows.

        What it has in common with the row whose place it takes, or with the last prompt, is not run again.
        """
        if self.after and prompt == self.prompt:
            state = self.decoder.take([(self.after[0], 0)])
            state.lengths[0] = len(prompt)
            return state, self.after[1]
        common, source = in_common(prompt, self.prompt), (self.after[0], 0) if self.after else None
        if place and (cached := in_common(prompt, ids[: place[0].lengths[place[1]]])) > common:
            common, source = cached, place
        common = min(common, len(prompt) - 1)
        if source and common >= WORTH:
            state = self.decoder.take([source])
            state.lengths[0] = common
        else:
            state, common = self.decoder.begin(), 0
        logits = self.decoder.extend(state, [prompt[common:]], last=True)[0]
        self.prompt, self.after = prompt, (state, logits)
        return state, logits

    def _step(self, state: State, rows: list[Row]) -> None:
        """One token of every row, or more where guesses are right."""
        guesses: list[list[int]] = [[] for _ in rows]
        if self.draft:
            guesses = [row.lookup.guess(row.ids, min(COUNT, row.left - 1)) for row in rows]
        new = [[row.ids[-1], *guess] for row, guess in zip(rows, guesses, strict=True)]
        after = np.split(self.decoder.extend(state, new), np.cumsum([len(part) for part in new])[:-1])
        for row, guess, logits in zip(rows, guesses, after, strict=True):
            for one, guessed in zip(logits, [*guess, None], strict=True):
                row.choose(one, self.end)
                if not row.running or row.ids[-1] != guessed:
                    break
        state.lengths = np.array([len(row.ids) - 1 for row in rows], "int32")


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
    shorter = min(len(a), len(b))
    different = np.flatnonzero(np.array(a[:shorter]) != np.array(b[:shorter]))
    return int(different[0]) if len(different) else shorter
