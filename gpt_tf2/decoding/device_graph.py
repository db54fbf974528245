"""Generation as a loop on the device, on JAX: many tokens for many slots in one call, without the host between them.

Pure functions of weights and a state, compiled once per shape. The state is donated: the cache is updated in its own
memory. `generation/device_loop.py` decides what runs in which slot.

Letters in shapes, beside those of `model.py`: B slots, S positions that the cache has room for, R prompts.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gpt_tf2.decoding.device_draft import propose
from gpt_tf2.decoding.device_rules import Rules, Settings, draw_tokens, leave_out
from gpt_tf2.model import GPT2, Tensor, after_attention, before_attention, embed, layer_norm

MAX_STEPS = 64  # most steps in one call

Cache = list[tuple[Tensor, Tensor]]  # each block's keys and values, [B, H, S, D]
Weights = dict[str, Any]  # `ends`, and `blocks`, a list: the model's tensors by their names


class Slots(NamedTuple):
    """What the device keeps of the sequences in the slots.

    cache: keys and values of every token so far.
    lengths: int32 [B], how many tokens that is.
    logits: float32 [B, V], of the next token.
    left: int32 [B], how many more tokens to generate. A slot with 0 is free.
    counts: int32 [B], how many were generated.
    seeds: uint32 [B], of the draws.
    settings: the sampling rules.
    ids: int32 [B, S], the tokens so far; only with draft tokens.
    used: bool [B, V], the ids that occur; only with a repetition penalty.
    """

    cache: Cache
    lengths: Tensor
    logits: Tensor
    left: Tensor
    counts: Tensor
    seeds: Tensor
    settings: Settings
    ids: Tensor | None
    used: Tensor | None


class Admission(NamedTuple):
    """Sequences that enter slots, [N] each.

    slots: where they go; the number of slots for padding. prompts: the number of each one's prompt among those computed
    with it. Several samples share a prompt.
    left, seeds, settings: as in `Slots`.
    """

    slots: Tensor
    prompts: Tensor
    left: Tensor
    seeds: Tensor
    settings: Settings


def read_weights(model: GPT2) -> Weights:
    """The model's current weights, with the matrices in the dtype that it computes in."""
    weights = {
        "ends": {name: variable.value for name, variable in model.ends.items()},
        "blocks": [{name: variable.value for name, variable in block.items()} for block in model.blocks],
    }

    def is_other(x: Tensor) -> bool:
        return x.ndim == 2 and x.dtype not in (model.compute_dtype, "int8")

    others = [x for x in jax.tree.leaves(weights) if is_other(x)]
    cast = iter(cast_all(others, model.compute_dtype) if others else [])
    return jax.tree.map(lambda x: next(cast) if is_other(x) else x, weights)


@functools.partial(jax.jit, static_argnums=1)
def cast_all(tensors: list[Tensor], dtype: str) -> list[Tensor]:
    return [x.astype(dtype) for x in tensors]


@functools.partial(jax.jit, static_argnames=("slots", "positions", "n_head", "drafts", "penalizes"))
def begin(weights: Weights, slots: int, positions: int, n_head: int, drafts: bool, penalizes: bool) -> Slots:
    """Free slots, with a cache of `positions`."""
    n_vocab, channels = weights["ends"]["wte"].shape
    shape, dtype = (slots, n_head, positions, channels // n_head), weights["ends"]["wte"].dtype
    return Slots(
        cache=[(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in weights["blocks"]],
        lengths=jnp.zeros(slots, "int32"),
        logits=jnp.zeros((slots, n_vocab), "float32"),
        left=jnp.zeros(slots, "int32"),
        counts=jnp.zeros(slots, "int32"),
        seeds=jnp.zeros(slots, "uint32"),
        settings=jax.tree.map(jnp.asarray, leave_out(slots)),
        ids=jnp.zeros((slots, positions), "int32") if drafts else None,
        used=jnp.zeros((slots, n_vocab), bool) if penalizes else None,
    )


@functools.partial(jax.jit, static_argnames=("positions", "penalizes"))
def extend_room(state: Slots, positions: int, penalizes: bool) -> Slots:
    """The slots with a larger cache, and with room for the ids that occur."""
    missing = positions - state.cache[0][0].shape[2]
    sides = ((0, 0), (0, 0), (0, missing), (0, 0))
    cache = [(jnp.pad(keys, sides), jnp.pad(values, sides)) for keys, values in state.cache]
    ids = None if state.ids is None else jnp.pad(state.ids, ((0, 0), (0, missing)))
    used = jnp.zeros(state.logits.shape, bool) if penalizes and state.used is None else state.used
    return state._replace(cache=cache, ids=ids, used=used)


@functools.partial(jax.jit, donate_argnums=1, static_argnames="n_head")
def admit(
    weights: Weights,
    state: Slots,
    prompts: Tensor,
    lengths: Tensor,
    prefixes: tuple[Tensor, Tensor, Tensor] | None,
    admission: Admission,
    n_head: int,
) -> Slots:
    """Compute prompts, and put sequences that begin with them into slots.

    Args:
        prompts: int32 [R, T], their ids, padded.
        lengths: int32 [R], tokens of each, at least 1.
        prefixes: what not to compute, or None: for each prompt the slot that shares a prefix with it, int32 [R], how
            many tokens of it to copy, int32 [R], fewer than the prompt has, and the ids after these, int32 [R, T'].
    """
    rows = len(prompts)
    if prefixes is None:
        ids, copied = prompts, jnp.zeros_like(lengths)
        shape = (rows, n_head, prompts.shape[1], weights["ends"]["wte"].shape[1] // n_head)
        cache = [(jnp.zeros(shape, x.dtype), jnp.zeros(shape, x.dtype)) for x, _ in state.cache]
    else:
        sources, copied, ids = prefixes
        cache = jax.tree.map(lambda x: x[sources], state.cache)
    x, computed = run_tokens(weights, cache, ids, copied[:, None] + jnp.arange(ids.shape[1]), n_head)
    logits = project(weights, x[jnp.arange(rows), lengths - copied - 1])  # [R, V]

    def put(old: Tensor, new: Tensor) -> Tensor:
        return old.at[admission.slots].set(new, mode="drop")

    def put_prompts(old: Tensor, new: Tensor) -> Tensor:
        return put(old, new[admission.prompts])

    def put_positions(old: Tensor, new: Tensor) -> Tensor:
        """As `put_prompts` for keys or values."""
        return old.at[admission.slots, :, : new.shape[2]].set(new[admission.prompts], mode="drop")

    all_ids, used, width = state.ids, state.used, prompts.shape[1]
    if all_ids is not None:
        all_ids = all_ids.at[admission.slots, :width].set(prompts[admission.prompts], mode="drop")
    if used is not None:
        known = jnp.where(jnp.arange(width) < lengths[:, None], prompts, used.shape[1])  # without the padding
        occurs = jnp.zeros((rows, used.shape[1]), bool).at[jnp.arange(rows)[:, None], known].set(True, mode="drop")
        used = put_prompts(used, occurs)
    return Slots(
        cache=jax.tree.map(put_positions, state.cache, computed),
        lengths=put_prompts(state.lengths, lengths),
        logits=put_prompts(state.logits, logits),
        left=put(state.left, admission.left),
        counts=put(state.counts, jnp.zeros_like(admission.left)),
        seeds=put(state.seeds, admission.seeds),
        settings=jax.tree.map(put, state.settings, admission.settings),
        ids=all_ids,
        used=used,
    )


@functools.partial(jax.jit, donate_argnums=1, static_argnames=("n_head", "rules", "draft_tokens"))
def run_steps(
    weights: Weights,
    state: Slots,
    keep: Tensor,
    steps: Tensor,
    end: Tensor,
    undrawn: Tensor,
    n_head: int,
    rules: Rules,
    draft_tokens: int,
) -> tuple[Slots, tuple[Tensor, Tensor, Tensor]]:
    """Generate in all slots, for a number of steps or until each is free.

    A step adds one token to a sequence, or also the draft tokens after it that equal what is drawn. Each token is drawn
    from its own distribution by its own number, so the text does not depend on the draft.

    Args:
        keep: bool [B]; slots to free are False.
        steps: at most MAX_STEPS.
        end: the end-of-text id.
        undrawn: int32, ids that are never drawn.
        draft_tokens: most draft tokens per step and slot, or 0.

    Returns:
        The slots, the new tokens int32 [B, MAX_STEPS · (1 + draft_tokens)], how many of them each has [B], and how many
        are left to generate [B].
    """
    slots, room = len(state.left), MAX_STEPS * (1 + draft_tokens)
    every, ahead = jnp.arange(slots)[:, None], jnp.arange(1 + draft_tokens)[None]

    def step(carry: tuple[Tensor, Slots, Tensor, Tensor]) -> tuple[Tensor, Slots, Tensor, Tensor]:
        number, state, out, written = carry
        positions = state.cache[0][0].shape[2]

        def after(start: Tensor, count: Tensor, limit: int) -> Tensor:
            """Where the tokens of this step go: `count` of them from `start`, the others past the end."""
            return jnp.where(ahead < count[:, None], start[:, None] + ahead, limit + ahead)

        token = draw_tokens(
            state.logits, state.settings, rules, state.seeds, state.counts, state.lengths, state.used, end, undrawn
        )
        runs = (state.left > 0) & (token != end)
        tokens, drafted = token[:, None], jnp.zeros(slots, "int32")
        if state.ids is not None:
            known = state.ids.at[every[:, 0], jnp.where(runs, state.lengths, positions)].set(token, mode="drop")
            draft, drafted = propose(known, state.lengths + 1, draft_tokens)
            drafted = jnp.where(runs, jnp.minimum(drafted, state.left - 1), 0)
            tokens = jnp.concatenate([tokens, draft], axis=1)
        where = after(state.lengths, jnp.where(runs, 1 + drafted, 0), positions)
        x, cache = run_tokens(weights, state.cache, tokens, where, n_head)
        all_logits = project(weights, x)  # [B, 1 + draft_tokens, V]
        added, logits = jnp.where(runs, 1, 0), all_logits[:, 0]
        if draft_tokens:
            accepted = count_accepted(all_logits, state, rules, tokens, drafted, end, undrawn)
            added, logits = jnp.where(runs, 1 + accepted, 0), all_logits[every[:, 0], accepted]
        ids, used = state.ids, state.used
        if ids is not None:
            ids = ids.at[every, after(state.lengths, added, positions)].set(tokens, mode="drop")
        if used is not None:
            used = used.at[every, jnp.where(ahead < added[:, None], tokens, used.shape[1])].set(True, mode="drop")
        out = out.at[every, after(written, added, room)].set(tokens, mode="drop")
        state = state._replace(
            cache=cache,
            lengths=state.lengths + added,
            logits=logits,
            left=jnp.where(runs, state.left - added, 0),
            counts=state.counts + added,
            ids=ids,
            used=used,
        )
        return number + 1, state, out, written + added

    begun = (
        jnp.zeros((), "int32"),
        state._replace(left=jnp.where(keep, state.left, 0)),
        jnp.zeros((slots, room), "int32"),
        jnp.zeros(slots, "int32"),
    )
    _, state, out, written = lax.while_loop(lambda carry: (carry[0] < steps) & (carry[1].left > 0).any(), step, begun)
    return state, (out, written, state.left)


def count_accepted(
    logits: Tensor, state: Slots, rules: Rules, tokens: Tensor, drafted: Tensor, end: Tensor, undrawn: Tensor
) -> Tensor:
    """How many draft tokens equal what is drawn, up to the first that does not, [B].

    Args:
        logits: [B, 1 + K, V], of the token after each of this step's.
        state: before this step.
        tokens: [B, 1 + K], of this step: one that was drawn, and K draft tokens.
        drafted: [B], how many of the draft tokens are proposed.
    """
    slots, count = tokens.shape[0], tokens.shape[1] - 1
    later = jnp.arange(1, 1 + count)
    used = None if state.used is None else add_in_turn(state.used, tokens[:, :count])
    drawn = draw_tokens(
        logits[:, :count].reshape(slots * count, -1),
        jax.tree.map(lambda x: jnp.repeat(x, count), state.settings),
        rules,
        jnp.repeat(state.seeds, count),
        (state.counts[:, None] + later).ravel(),
        (state.lengths[:, None] + later).ravel(),
        used,
        end,
        undrawn,
    ).reshape(slots, count)
    agrees = (drawn == tokens[:, 1:]) & (drawn != end) & (later <= drafted[:, None])
    return jnp.cumprod(agrees, axis=1).sum(axis=1)


def add_in_turn(used: Tensor, tokens: Tensor) -> Tensor:
    """The ids that occur in each sequence, bool [B, V], after each of its new tokens [B, K] → [B · K, V]."""
    every, masks = jnp.arange(len(tokens)), []
    for number in range(tokens.shape[1]):
        used = used.at[every, tokens[:, number]].set(True)
        masks.append(used)
    return jnp.stack(masks, axis=1).reshape(-1, used.shape[1])


def run_tokens(weights: Weights, cache: Cache, ids: Tensor, positions: Tensor, n_head: int) -> tuple[Tensor, Cache]:
    """Run tokens [B, T] at positions [B, T] of their sequences → hidden states [B, T, C], and the cache with them.

    A token attends to every cached position up to its own. Tokens at positions past the cache's end are not cached.
    """
    ends, (batch, width) = weights["ends"], ids.shape
    every, room = jnp.arange(batch)[:, None], cache[0][0].shape[2]
    visible = jnp.arange(room) <= positions[..., None]  # [B, T, S]
    x = embed(ends, ids, jnp.minimum(positions, len(ends["wpe"]) - 1), ends["wte"].dtype.name)
    updated = []
    for block, pair in zip(weights["blocks"], cache, strict=True):
        qkv = before_attention(block, x).reshape(batch, width, 3, n_head, -1)
        keys, values = (
            old.at[every, :, positions].set(qkv[:, :, part], mode="drop", unique_indices=True)
            for part, old in enumerate(pair, start=1)
        )
        x = after_attention(block, x, attend(qkv[:, :, 0], keys, values, visible).reshape(x.shape))
        updated.append((keys, values))
    return layer_norm(x, ends, "ln_f"), updated


def attend(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Attention of queries [B, T, H, D] over cached positions, with float32 scores → [B, T, H, D].

    keys, values: [B, H, S, D]. visible: bool [B, T, S].
    """
    scores = jnp.einsum("bthd,bhsd->bhts", query, keys, preferred_element_type="float32") * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e9), axis=-1)
    return jnp.einsum("bhts,bhsd->bthd", weights.astype(values.dtype), values)


def project(weights: Weights, x: Tensor) -> Tensor:
    """Float32 logits [..., V] of hidden states [..., C]."""
    ends = weights["ends"]
    matrix = ends.get("lm_head", ends["wte"])
    return jnp.einsum("...c,vc->...v", x, matrix, preferred_element_type="float32")
