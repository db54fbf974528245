"""The Keras graph as a decoder, on any device and either backend."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from gpt_tf2.backend import compiled
from gpt_tf2.generation.decoder import State
from gpt_tf2.model import GPT2, Rows, causal_mask

BUCKET = 64  # slots are added in multiples of it


class GraphDecoder:
    """Runs a model; see `Decoder`.

    The cache of a state is, for each block, keys, then values, [B, H, S, D].

    Numbers of tokens are rounded up, as those of slots are, so that few shapes are traced.
    """

    def __init__(self, model: GPT2, device: str = ""):
        self.model, self.config, self.name = model, model.config, f"{device}, {model.compute_dtype}"
        self._first = compiled(model, self._first_graph)
        self._more = compiled(model, self._more_graph, donated=0)

    def begin(self) -> State:
        shape = (1, self.config.n_head, 0, self.config.n_embd // self.config.n_head)
        return State(np.zeros(1, "int32"), [ops.zeros(shape, self.model.compute_dtype)] * (2 * self.config.n_layer))

    def extend(self, state: State, rows: Sequence[Sequence[int]], last: bool = False) -> np.ndarray:
        counts = np.array([len(row) for row in rows], "int32")
        width = rounded(max(2, *map(len, rows)))  # of a single score Keras warns that it always has the weight 1
        tokens = np.zeros((len(rows), width), "int32")
        for line, row in zip(tokens, rows, strict=True):
            line[: len(row)] = row
        firsts, columns = width * np.arange(len(rows), dtype="int32"), np.arange(counts.max(), dtype="int32")
        picks = firsts + counts - 1 if last else (firsts[:, None] + columns).ravel()
        slots = slots_for(state.lengths.max() + width)
        if state.lengths.any():
            cache = [grown(array, slots) for array in state.cache]
            state.cache = []  # its memory is used again
            logits, state.cache = self._more(cache, tokens, state.lengths, picks)
        else:
            logits, cache = self._first(tokens, picks)
            state.cache = [grown(array, slots) for array in cache]
        state.lengths = state.lengths + counts
        return np.asarray(logits) if last else np.asarray(logits)[(columns < counts[:, None]).ravel()]

    def take(self, sources: Sequence[tuple[State, int]]) -> State:
        lengths = np.array([state.lengths[row] for state, row in sources], "int32")
        slots = max(state.cache[0].shape[2] for state, _ in sources)
        cache = [
            ops.concatenate([grown(state.cache[i][row : row + 1], slots) for state, row in sources])
            for i in range(2 * self.config.n_layer)
        ]
        return State(lengths, cache)

    def put(self, state: State, row: int, source: State) -> None:
        places = [(source, 0) if i == row else (state, i) for i in range(len(state.lengths))]
        taken = self.take(places)
        state.lengths, state.cache = taken.lengths, taken.cache

    def _first_graph(self, tokens: Any, picks: Any) -> tuple[Any, list[Any]]:
        width = ops.shape(tokens)[1]
        x, rows = self.model.hidden(tokens, ops.arange(width, dtype="int32")[None], causal_mask(width))
        return self._picked(x, picks), [array for pair in rows for array in pair]

    def _more_graph(self, cache: list[Any], tokens: Any, lengths: Any, picks: Any) -> tuple[Any, list[Any]]:
        rows, width = ops.shape(tokens)[:2]
        places = lengths[:, None] + ops.arange(width, dtype="int32")[None]  # [B, T]
        filled = (ops.arange(ops.shape(cache[0])[2])[None] < lengths[:, None])[:, None, None]
        pairs: list[Rows] = list(zip(cache[::2], cache[1::2], strict=True))
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
