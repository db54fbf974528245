"""Prompt lookup on the device: draft tokens out of the sequence itself (Saxena 2023)."""

import jax.numpy as jnp

from gpt_tf2.model import Tensor

MAX_MATCH, MIN_MATCH = 4, 2  # length of the n-grams that are looked up, in tokens


def propose(ids: Tensor, lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The tokens that followed the last occurrence of each sequence's last tokens, of the longest n-gram that recurs.

    These are the tokens of `PromptLookup`, and more where the sequence repeats itself in a cycle shorter than `count`.

    Args:
        ids: int32 [B, S], the sequences.
        lengths: int32 [B], how many tokens each has.
        count: how many to propose.

    Returns:
        Tokens [B, count], and how many of them are proposed [B].
    """
    batch, size = ids.shape
    sequences = jnp.arange(batch)[:, None]
    ends = jnp.arange(size)[None]  # an n-gram is the tokens before its end
    matches, matched = jnp.ones((batch, size), bool), jnp.zeros((batch, size), "int32")
    for back in range(1, MAX_MATCH + 1):
        last = ids[sequences, jnp.maximum(lengths[:, None] - back, 0)]  # [B, 1]
        shifted = jnp.pad(ids, ((0, 0), (back, 0)))[:, :size]
        matches &= (shifted == last) & (ends >= back)
        matched += matches
    usable = (matched >= MIN_MATCH) & (ends < lengths[:, None])
    score = jnp.where(usable, matched * size + ends, -1)
    start = score.argmax(axis=-1)  # [B]
    known = jnp.maximum(lengths - start, 1)[:, None]  # tokens from there on; a shorter cycle is gone through again
    positions = start[:, None] + jnp.arange(count) % known
    return ids[sequences, positions], jnp.where(score.max(axis=-1) >= 0, count, 0)
