"""The Keras graph as a decoder, on any device and either backend."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import compile_with_model
from gpt_tf2.decoding.decoder import State
from gpt_tf2.model import GPT2, KeysValues, causal_mask

BUCKET = 64  # slots are added in multiples of it
ALONE = 16  # tokens from which on a row is run alone, as the others would have to be filled up to as many


class GraphDecoder:
    """Runs a model; see `Decoder`.

    The cache of a state is, for each block, keys, then values, [B, H, S, D].

    Numbers of tokens are rounded up, as those of slots are, so that few shapes are traced.
    """

    prefill_chunk = sys.maxsize  # prompts are run whole, each alone

    def __init__(self, model: GPT2, device: str = ""):
        self.model, self.config, self.name = model, model.config, f"{device}, {model.compute_dtype}"
        self._first = compile_with_model(model, self._first_graph)
        self._more = compile_with_model(model, self._more_graph, donated=0)

    def begin(self) -> State:
        shape = (1, self.config.n_head, 0, self.config.n_embd // self.config.n_head)
        return State(np.zeros(1, "int32"), [ops.zeros(shape, self.model.compute_dtype)] * (2 * self.config.n_layer))

    def extend(self, state: State, rows: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> np.ndarray:
        wanted = [len(row) for row in rows] if wanted is None else wanted
        alone = {
            i: State(state.lengths[i : i + 1], [array[i : i + 1] for array in state.cache])
            for i, row in enumerate(rows)
            if len(row) > ALONE and len(rows) > 1
        }
        found = {i: self._extend(one, [rows[i]], [wanted[i]]) for i, one in alone.items()}
        if len(alone) < len(rows):
            together = [() if i in alone else row for i, row in enumerate(rows)]
            wanted = [0 if i in alone else count for i, count in enumerate(wanted)]
            logits = np.split(self._extend(state, together, wanted), np.cumsum(wanted)[:-1])
            found = dict(enumerate(logits)) | found
        if alone:
            self._join(state, alone)
        return np.concatenate([found[i] for i in range(len(rows))])

    def _extend(self, state: State, rows: Sequence[Sequence[int]], wanted: Sequence[int]) -> np.ndarray:
        """As `extend`, all rows padded to the longest."""
        counts = np.array([len(row) for row in rows], "int32")
        width = rounded(max(2, *map(len, rows)))  # of a single score Keras warns that it always has the weight 1
        tokens = np.zeros((len(rows), width), "int32")
        for line, row in zip(tokens, rows, strict=True):
            line[: len(row)] = row
        last = np.arange(-rounded(max(1, *wanted)), 0, dtype="int32")  # of so many the logits are computed
        picks = width * np.arange(len(rows), dtype="int32")[:, None] + np.maximum(0, counts[:, None] + last)
        slots = slots_for(state.lengths.max() + width)
        if state.lengths.any():
            cache = [grown(array, slots) for array in state.cache]
            state.cache = []  # its memory is used again
            logits, state.cache = self._more(cache, tokens, state.lengths, picks.ravel())
        else:
            logits, cache = self._first(tokens, picks.ravel())
            state.cache = [grown(array, slots) for array in cache]
        state.lengths = state.lengths + counts
        return np.asarray(logits)[(last >= -np.array(wanted)[:, None]).ravel()]

    def _join(self, state: State, alone: dict[int, State]) -> None:
        """Puts back rows that have been run alone."""
        slots = max(part.cache[0].shape[2] for part in (state, *alone.values()))
        for k, array in enumerate(state.cache):
            parts = [alone[i].cache[k] if i in alone else array[i : i + 1] for i in range(len(state.lengths))]
            state.cache[k] = ops.concatenate([grown(part, slots) for part in parts])
        for i, one in alone.items():
            state.lengths[i] = one.lengths[0]

    def take(self, state: State, places: Sequence[tuple[int, int]]) -> State:
        sources, lengths = [row for row, _ in places], np.array([tokens for _, tokens in places], "int32")
        if sources == list(range(len(state.lengths))):
            return State(lengths, state.cache)
        slots = slots_for(lengths.max())
        return State(lengths, [ops.take(array, sources, axis=0)[:, :, :slots] for array in state.cache])

    def _first_graph(self, tokens: Any, picks: Any) -> tuple[Any, list[Any]]:
        width = ops.shape(tokens)[1]
        x, rows = self.model.hidden(tokens, ops.arange(width, dtype="int32")[None], causal_mask(width))
        return self._picked(x, picks), [array for pair in rows for array in pair]

    def _more_graph(self, cache: list[Any], tokens: Any, lengths: Any, picks: Any) -> tuple[Any, list[Any]]:
        rows, width = ops.shape(tokens)[:2]
        places = lengths[:, None] + ops.arange(width, dtype="int32")[None]  # [B, T]
        filled = (ops.arange(ops.shape(cache[0])[2])[None] < lengths[:, None])[:, None, None]
        pairs: list[KeysValues] = list(zip(cache[::2], cache[1::2], strict=True))
        positions = ops.minimum(places, self.config.n_ctx - 1)
        x, new = self.model.hidden(tokens, positions, causal_mask(width), pairs, filled)
        heads = self.config.n_head
        where = [
            ops.broadcast_to(index, (rows, heads, width))
            for index in (
                ops.arange(rows, dtype="int32")[:, None, None],
                ops.arange(heads, dtype="int32")[None, :, None],
                places[:, None],
            )
        ]
        index = ops.reshape(ops.stack(where, axis=-1), (-1, 3))
        flat = [ops.reshape(array, (-1, array.shape[-1])) for pair in new for array in pair]
        stored = [ops.scatter_update(old, index, values) for old, values in zip(cache, flat, strict=True)]
        return self._picked(x, picks), stored

    def _picked(self, x: Any, picks: Any) -> Any:
        """Hidden states [B, T, C], numbers of tokens [N] → their logits [N, n_vocab]."""
        return self.model.logits(ops.take(ops.reshape(x, (-1, self.config.n_embd)), picks, axis=0))


def slots_for(tokens: int) -> int:
    """How many slots a row of so many tokens gets."""
    return max(1, -(-int(tokens) // BUCKET)) * BUCKET


def rounded(count: int) -> int:
    """The number of tokens that so many are computed as: a power of two, or whole buckets."""
    return slots_for(count) if count > 32 else 1 << (count - 1).bit_length()


def grown(array: Any, slots: int) -> Any:
    """[B, H, S, D] with at least so many slots."""
    missing = slots - array.shape[2]
    return ops.pad(array, [[0, 0], [0, 0], [0, missing], [0, 0]]) if missing > 0 else array
