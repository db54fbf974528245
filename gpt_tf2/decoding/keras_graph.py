"""The Keras graph as a decoder, on any device and either backend."""

import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import compile_with_model
from gpt_tf2.decoding.decoder import NO_IDS, Decoder, State
from gpt_tf2.model import GPT2, KeysValues, causal_mask

BUCKET = 64  # the cache's capacity is a multiple of this
MAX_PADDED = 16  # a sequence with more new tokens runs alone, since all others would be padded to its length


class GraphDecoder:
    """A decoder that runs a Keras model; see `Decoder`.

    A state's cache has two arrays per block, keys and values, [B, H, S, D]. All sequences share the capacity S. It is
    rounded up, as the number of new tokens is, so that few shapes are compiled.

    Args:
        model: each call uses its current weights, so it may be trained in between.
        device: the device's name, to show.
        undrawn: the ids without a token.
    """

    prefill_chunk = sys.maxsize  # a prompt runs whole, alone
    drafter: Decoder | None = None

    def __init__(self, model: GPT2, device: str = "", undrawn: np.ndarray = NO_IDS):
        self.model, self.config, self.precision, self.undrawn = model, model.config, model.compute_dtype, undrawn
        self.name = f"{device}, {self.precision}"
        self.loops_on_device = keras.backend.backend() == "jax"
        self._run_first = compile_with_model(model, self._first_graph)
        self._run_more = compile_with_model(model, self._more_graph, donated=0)

    def begin(self) -> State:
        shape = (1, self.config.n_head, 0, self.config.n_embd // self.config.n_head)
        return State(np.zeros(1, "int32"), [ops.zeros(shape, self.model.compute_dtype)] * (2 * self.config.n_layer))

    def extend(self, state: State, new: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> np.ndarray:
        wanted = [len(ids) for ids in new] if wanted is None else wanted
        alone = {
            i: State(state.lengths[i : i + 1], [array[i : i + 1] for array in state.cache])
            for i, ids in enumerate(new)
            if len(ids) > MAX_PADDED and len(new) > 1
        }
        logits = {i: self._extend_padded(one, [new[i]], [wanted[i]]) for i, one in alone.items()}
        if len(alone) < len(new):
            together = [() if i in alone else ids for i, ids in enumerate(new)]
            wanted = [0 if i in alone else count for i, count in enumerate(wanted)]
            parts = np.split(self._extend_padded(state, together, wanted), np.cumsum(wanted)[:-1])
            logits = dict(enumerate(parts)) | logits
        if alone:
            self._put_back(state, alone)
        return np.concatenate([logits[i] for i in range(len(new))])

    def take(self, state: State, prefixes: Sequence[tuple[int, int]]) -> State:
        sources, lengths = [source for source, _ in prefixes], np.array([tokens for _, tokens in prefixes], "int32")
        if sources == list(range(len(state.lengths))):
            return State(lengths, state.cache)
        capacity = round_capacity(lengths.max())
        return State(lengths, [ops.take(array, sources, axis=0)[:, :, :capacity] for array in state.cache])

    def _extend_padded(self, state: State, new: Sequence[Sequence[int]], wanted: Sequence[int]) -> np.ndarray:
        """As `extend`, in one call of the graph, with all sequences padded to the same number of new tokens."""
        counts = np.array([len(ids) for ids in new], "int32")
        width = round_tokens(max(2, *map(len, new)))  # Keras warns of a softmax over a single score
        tokens = np.zeros((len(new), width), "int32")
        for row, ids in zip(tokens, new, strict=True):
            row[: len(ids)] = ids
        # Logits are computed for the same number of last tokens of each sequence, and those not wanted are dropped.
        last = np.arange(-round_tokens(max(1, *wanted)), 0, dtype="int32")
        picks = width * np.arange(len(new), dtype="int32")[:, None] + np.maximum(0, counts[:, None] + last)
        capacity = round_capacity(state.lengths.max() + width)
        if state.lengths.any():
            cache = [pad_cache(array, capacity) for array in state.cache]
            state.cache = []  # so that the graph can reuse its memory
            logits, state.cache = self._run_more(cache, tokens, state.lengths, picks.ravel())
        else:
            logits, cache = self._run_first(tokens, picks.ravel())
            state.cache = [pad_cache(array, capacity) for array in cache]
        state.lengths = state.lengths + counts
        return np.asarray(logits)[(last >= -np.array(wanted)[:, None]).ravel()]

    def _put_back(self, state: State, alone: dict[int, State]) -> None:
        """Replaces sequences of a state by those that ran alone, given by index."""
        capacity = max(part.cache[0].shape[2] for part in (state, *alone.values()))
        for k, array in enumerate(state.cache):
            parts = [alone[i].cache[k] if i in alone else array[i : i + 1] for i in range(len(state.lengths))]
            state.cache[k] = ops.concatenate([pad_cache(part, capacity) for part in parts])
        for i, one in alone.items():
            state.lengths[i] = one.lengths[0]

    def _first_graph(self, tokens: Any, picks: Any) -> tuple[Any, list[Any]]:
        """Sequences without cached positions: tokens [B, T], picks [N] of B·T → logits [N, n_vocab], cache."""
        width = ops.shape(tokens)[1]
        positions = ops.minimum(ops.arange(width, dtype="int32"), self.config.n_ctx - 1)  # padding may be beyond n_ctx
        x, pairs = self.model.hidden(tokens, positions[None], causal_mask(width))
        return self._pick_logits(x, picks), [array for pair in pairs for array in pair]

    def _more_graph(self, cache: list[Any], tokens: Any, lengths: Any, picks: Any) -> tuple[Any, list[Any]]:
        """Sequences with `lengths` [B] cached positions: the same, with the new keys and values put into the cache."""
        batch, width = ops.shape(tokens)[:2]
        positions = lengths[:, None] + ops.arange(width, dtype="int32")[None]  # [B, T]; padding may be beyond n_ctx
        filled = (ops.arange(ops.shape(cache[0])[2])[None] < lengths[:, None])[:, None, None]  # [B, 1, 1, S]
        pairs: list[KeysValues] = list(zip(cache[::2], cache[1::2], strict=True))
        embedded_positions = ops.minimum(positions, self.config.n_ctx - 1)
        x, new = self.model.hidden(tokens, embedded_positions, causal_mask(width), pairs, filled)
        heads = self.config.n_head
        indices = [
            ops.broadcast_to(index, (batch, heads, width))
            for index in (
                ops.arange(batch, dtype="int32")[:, None, None],
                ops.arange(heads, dtype="int32")[None, :, None],
                positions[:, None],
            )
        ]
        index = ops.reshape(ops.stack(indices, axis=-1), (-1, 3))  # [B·H·T, 3]
        flat = [ops.reshape(array, (-1, array.shape[-1])) for pair in new for array in pair]  # [B·H·T, D] each
        updated = [ops.scatter_update(old, index, values) for old, values in zip(cache, flat, strict=True)]
        return self._pick_logits(x, picks), updated

    def _pick_logits(self, x: Any, picks: Any) -> Any:
        """Hidden states [B, T, C] → logits [N, n_vocab] of those at picks [N] of B·T."""
        return self.model.logits(ops.take(ops.reshape(x, (-1, self.config.n_embd)), picks, axis=0))


def round_capacity(positions: int) -> int:
    """A capacity for that many positions: the next multiple of BUCKET."""
    return max(1, -(-int(positions) // BUCKET)) * BUCKET


def round_tokens(count: int) -> int:
    """How many tokens to compute for that many: the next power of two, or multiple of BUCKET above 32."""
    return round_capacity(count) if count > 32 else 1 << (count - 1).bit_length()


def pad_cache(array: Any, capacity: int) -> Any:
    """Keys or values [B, H, S, D], with S raised to `capacity` if it is less."""
    missing = capacity - array.shape[2]
    return ops.pad(array, [[0, 0], [0, 0], [0, missing], [0, 0]]) if missing > 0 else array
