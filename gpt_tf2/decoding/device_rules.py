"""Sampling rules as part of a graph, on JAX: each slot has its own settings, and no sort of the vocabulary is needed.

Letters in shapes: N sequences, V tokens in the vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gpt_tf2.model import Tensor

FEW, BITS_OF_FEW, BITS_OF_MANY = 8, 4, 2  # measured (docs/performance.md): few sequences pay for passes, many for work


class Settings(NamedTuple):
    """The sampling rules of each sequence, [N] each. The defaults of `leave_out` make a rule do nothing.

    greedy: take the most likely token. penalty: of repeated tokens. temperature: divides the logits.
    top_k: how many tokens to keep. top_p: mass of the nucleus. min_p: least fraction of the top token's probability.
    fewest: rule out the end of the text below this number of tokens, the prompt included.
    """

    greedy: Tensor
    penalty: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    fewest: Tensor


class Rules(NamedTuple):
    """Which rules a graph contains, beside those that cost next to nothing. Decided when it is compiled."""

    draws: bool = False
    penalizes: bool = False
    top_k: bool = False
    nucleus: bool = False

    def __or__(self, other: "Rules") -> "Rules":
        """The rules of either."""
        return Rules(*(a or b for a, b in zip(self, other, strict=True)))


def leave_out(count: int) -> Settings:
    """Settings of `count` sequences that draw from the model's own distribution, as NumPy arrays."""
    numbers = (False, 1, 1, 0, 1, 0, 0)
    kinds = ("bool", "float32", "float32", "int32", "float32", "float32", "int32")
    return Settings(*(np.full(count, number, kind) for number, kind in zip(numbers, kinds, strict=True)))


def draw_tokens(
    logits: Tensor,
    settings: Settings,
    rules: Rules,
    seeds: Tensor,
    counts: Tensor,
    lengths: Tensor,
    used: Tensor | None,
    end: Tensor,
    undrawn: Tensor,
) -> Tensor:
    """The next token of each sequence, int32 [N].

    A draw depends on the sequence's seed and its number of new tokens alone, not on the other sequences.

    Args:
        logits: float32 [N, V].
        rules: what the settings of all sequences need, or more.
        seeds, counts: uint32 and int32 [N]: of the draws, and how many tokens are drawn already.
        lengths: int32 [N], tokens of each sequence so far.
        used: bool [N, V], the tokens that occur in each sequence; None leaves the repetition penalty out.
        end: the end-of-text id.
        undrawn: int32, ids that are never drawn.
    """
    logits = apply_rules(logits, settings, rules, lengths, used, end, undrawn)
    best = logits.argmax(axis=-1).astype("int32")
    if not rules.draws:
        return best
    keys = jax.vmap(lambda seed, count: jax.random.fold_in(jax.random.key(seed), count))(seeds, counts)
    drawn = jax.vmap(jax.random.categorical)(keys, logits).astype("int32")
    return jnp.where(settings.greedy, best, drawn)


def apply_rules(
    logits: Tensor,
    settings: Settings,
    rules: Rules,
    lengths: Tensor,
    used: Tensor | None,
    end: Tensor,
    undrawn: Tensor,
) -> Tensor:
    """Logits [N, V] as the rules leave them, in the order of `make_sampler`. The arguments are those of `draw_tokens`.

    Unlike the rules of `generation/sampling.py`, top-k and the nucleus keep all tokens whose logit equals that of the
    last one kept.
    """
    ruled_out = (jnp.arange(logits.shape[-1]) == end) & (lengths < settings.fewest)[:, None]
    if undrawn.size:
        ruled_out |= jnp.zeros(logits.shape[-1], bool).at[undrawn].set(True)
    logits = jnp.where(ruled_out, -jnp.inf, logits)
    if used is not None:
        penalty = settings.penalty[:, None]
        logits = jnp.where(used, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
    if not rules.draws:
        return logits
    logits = logits / settings.temperature[:, None]
    if rules.top_k:
        enough = jnp.where(settings.top_k > 0, settings.top_k, jnp.inf)
        logits = keep_top(logits, jnp.ones_like(logits), enough)
    if rules.nucleus:
        weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        enough = jnp.where(settings.top_p < 1, settings.top_p * weights.sum(axis=-1), jnp.inf)
        logits = keep_top(logits, weights, enough)
    lowest = logits.max(axis=-1) + jnp.log(settings.min_p)
    return jnp.where(logits >= lowest[:, None], logits, -jnp.inf)


def keep_top(logits: Tensor, weights: Tensor, enough: Tensor) -> Tensor:
    """Logits [N, V] of the fewest most likely tokens whose weights [N, V] sum to `enough` [N]; -inf elsewhere.

    Finds the lowest logit kept bit by bit, from the top, exactly and without a sort. A pass over the logits decides
    some bits, for which it compares all their values. Keeps all tokens where even their sum is not enough.
    """
    bits = BITS_OF_FEW if len(logits) <= FEW else BITS_OF_MANY
    keys = order(logits)
    edge = jnp.zeros(len(logits), "uint32")
    for shift in map(jnp.uint32, range(32 - bits, -1, -bits)):
        candidates = edge[:, None] | (jnp.arange(1, 2**bits, dtype="uint32") << shift)  # [N, 2**bits - 1]
        above = keys[:, None] >= candidates[..., None]  # never in memory: part of the sum
        sums = jnp.where(above, weights[:, None], 0).sum(axis=-1)
        edge |= (sums >= enough[:, None]).sum(axis=-1).astype("uint32") << shift
    return jnp.where(keys >= edge[:, None], logits, -jnp.inf)


def order(x: Tensor) -> Tensor:
    """Unsigned integers in the order of float32 numbers."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
