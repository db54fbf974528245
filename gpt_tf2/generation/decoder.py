"""The Keras graph as a decoder: prompts in, then one token of every row a step, with a key-value cache."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from gpt_tf2.backend import compiled
from gpt_tf2.model import GPT2, Rows, causal_mask

BUCKET = 64  # lengths are rounded up to multiples of it, so that few shapes are traced


@dataclasses.dataclass(frozen=True)
class State:
    """Rows in the midst of decoding.

    cache: for each block the keys and values, [rows, H, slots, D].
    lengths: int32 [rows]: how many slots of each row are filled.
    logits: float32 [rows, n_vocab]: of each row's next token.
    """

    cache: list[Rows]
    lengths: np.ndarray
    logits: np.ndarray

    def fork(self, count: int) -> "State":
        """Every row `count` times over."""
        cache = [(ops.repeat(keys, count, axis=0), ops.repeat(values, count, axis=0)) for keys, values in self.cache]
        return State(cache, np.repeat(self.lengths, count), np.repeat(self.logits, count, axis=0))


class Decoder:
    """Runs a model token by token."""

    def __init__(self, model: GPT2):
        self.model = model
        self._prefill = compiled(model, self._prefill_graph)
        self._step = compiled(model, self._step_graph)

    def prefill(self, prompts: list[list[int]], room: int) -> State:
        """Runs prompts of 1 to n_ctx tokens at once, with slots for `room` tokens more."""
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        width = self._bucket(lengths.max())
        tokens = np.zeros((len(prompts), width), "int32")
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        logits, rows = self._prefill(tokens, lengths)
        extra = self._bucket(lengths.max() + room) - width
        padding = [[0, 0], [0, 0], [0, extra], [0, 0]]
        cache = [(ops.pad(keys, padding), ops.pad(values, padding)) for keys, values in rows]
        return State(cache, lengths, np.asarray(logits))

    def step(self, state: State, tokens: np.ndarray) -> State:
        """Appends one token to every row, tokens [rows]."""
        logits, cache = self._step(tokens.astype("int32"), state.lengths, state.cache)
        return State(cache, state.lengths + np.int32(1), np.asarray(logits))

    def _bucket(self, length: int) -> int:
        return min(-(-int(length) // BUCKET) * BUCKET, self.model.config.n_ctx)

    def _prefill_graph(self, tokens: Any, lengths: Any) -> tuple[Any, list[Rows]]:
        width = ops.shape(tokens)[1]
        x, rows = self.model.hidden(tokens, ops.arange(width, dtype="int32")[None], causal_mask(width))
        last = ops.arange(ops.shape(tokens)[0], dtype="int32") * width + lengths - 1
        return self.model.logits(ops.take(ops.reshape(x, (-1, x.shape[-1])), last, axis=0)), rows

    def _step_graph(self, tokens: Any, lengths: Any, cache: list[Rows]) -> tuple[Any, list[Rows]]:
        slots = ops.arange(ops.shape(cache[0][0])[2])[None]
        filled, here = slots < lengths[:, None], slots == lengths[:, None]
        mask = ops.concatenate([filled, ops.ones_like(filled[:, :1])], axis=1)[:, None, None]
        x, rows = self.model.hidden(tokens[:, None], lengths[:, None], mask, cache)
        here = here[:, None, :, None]
        stored = [
            tuple(ops.where(here, *pair) for pair in zip(new, old, strict=True))
            for new, old in zip(rows, cache, strict=True)
        ]
        return self.model.logits(x[:, 0]), stored
