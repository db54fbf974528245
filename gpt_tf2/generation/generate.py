"""From prompts to what a model writes."""

from collections.abc import Callable

import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.generation.decoder import Decoder, State
from gpt_tf2.generation.sampling import Sampler


def sample(
    decoder: Decoder,
    prompt: list[int],
    count: int,
    new_tokens: int,
    sampler: Sampler,
    end: int,
    seed: int | None = None,
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
    n_ctx = decoder.model.config.n_ctx
    if len(prompt) >= n_ctx:
        raise InputError(f"--starter has {len(prompt)} tokens, n_ctx is {n_ctx}: give at most {n_ctx - 1}")
    new_tokens = min(new_tokens, n_ctx - len(prompt))
    seeds = np.random.SeedSequence(seed).spawn(count)
    generators = [np.random.default_rng(row_seed) for row_seed in seeds]
    state = decoder.prefill([prompt], new_tokens - 1).fork(count)
    return go_on(decoder, state, generators, new_tokens, sampler, end)


def go_on(
    decoder: Decoder,
    state: State,
    generators: list[np.random.Generator],
    new_tokens: int,
    sampler: Sampler,
    end: int,
    stopped: Callable[[list[int]], bool] = lambda ids: False,
) -> list[list[int]]:
    """The new ids of each row of a state that has room for `new_tokens` of them.

    Args:
        generators: one a row.
        end: the id at which a row stops; it is left out.
        stopped: whether a row stops after the ids it has.
    """
    rows: list[list[int]] = [[] for _ in generators]
    running = np.ones(len(rows), bool)
    for position in range(new_tokens):
        chosen = sampler.choose(state.logits, generators)
        for i in np.flatnonzero(running):
            if chosen[i] != end:
                rows[i].append(int(chosen[i]))
            running[i] = chosen[i] != end and not stopped(rows[i])
        if not running.any() or position == new_tokens - 1:
            break
        state = decoder.step(state, chosen)
    return rows
