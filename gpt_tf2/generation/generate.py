"""From a prompt to samples."""

import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.generation.decoder import Decoder
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
    rows = np.full((count, new_tokens), end)
    running = np.ones(count, bool)
    for position in range(new_tokens):
        rows[:, position] = np.where(running, sampler.choose(state.logits, generators), end)
        running &= rows[:, position] != end
        if not running.any() or position == new_tokens - 1:
            break
        state = decoder.step(state, rows[:, position])
    return [[int(i) for i in row[: np.argmax(row == end) if end in row else None]] for row in rows]
