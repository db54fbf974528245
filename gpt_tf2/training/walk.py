"""Forward block by block, and backward from the last to the first: one block's gradients are alive at a time."""

import functools
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import kernel, row_adder, value_of
from gpt_tf2.backend.memory import trim
from gpt_tf2.data.batches import Batch
from gpt_tf2.model import GPT2, Tensor, attend, attention_bias, causal_mask, embed, layer_norm, transformer_block
from gpt_tf2.training import custom_gradients as fast
from gpt_tf2.training.loss import Head
from gpt_tf2.training.memory import CHUNK
from gpt_tf2.training.pullbacks import Piece, Pull

DRAWS = 1 << 12  # random states kept for the dropouts of one step
BLOCK_DRAWS = 1 << 3  # and of one block
HALVED = 512  # tokens from which on attention is computed in halves
WAYS = (fast.attend, fast.attend_in_halves)

Gradients = dict[str, Tensor]
Attend = Callable[..., Tensor]
Place = Callable[[Batch], Batch]


def unmoved(batch: Batch) -> Batch:
    """A batch where there is one device."""
    return batch


class Walk:
    """A model's loss and gradients.

    Args:
        trained: OpenAI's names of the tensors that gradients are asked for.
        remat: whether the way back computes each block anew from its input instead of keeping what it needs.
        place: puts a batch where it is computed.
    """

    def __init__(self, model: GPT2, trained: Collection[str], remat: bool = False, place: Place = unmoved):
        self.model = model
        self.place = place
        self.trained = frozenset(trained)
        self.remat = remat
        names = [[name for name in self.trained if name.startswith(f"h{i}/")] for i in range(len(model.blocks))]
        to_the_start = bool(self.trained & {"wte", "wpe"})
        self.first = 0 if to_the_start else next((i for i, found in enumerate(names) if found), len(names))
        self.head = Head("wte" in self.trained, CHUNK // 2 if remat else CHUNK)
        dtype = model.compute_dtype
        self._bias = kernel(lambda segments: attention_bias(visible(segments), dtype))
        self._narrow = kernel(lambda weights: narrow(weights, dtype)) if dtype != "float32" else dict
        self._embed = kernel(lambda weights, tokens, positions: embed(weights, tokens, positions, dtype))
        self._drop = Piece(lambda x, draws: self._drawing(draws, lambda: model.drop(x)))
        self._blocks = [Piece(functools.partial(self._block_graph, attending=how)) for how in WAYS]
        self._top = Piece(top)
        self._sum_rows = kernel(sum_rows)
        self._add_rows = row_adder()
        self._sum_positions = kernel(lambda dx, where: segment_sum(dx, where, model.config.n_ctx))

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the weighted losses of a batch, in nats, without dropout."""
        batch = self.place(batch)
        x, bias, piece = self._enter(batch), self._bias(batch.segments), self._piece(batch)
        for i in range(len(self.model.blocks)):
            x = piece.run(*self._block_inputs(i, x), bias, None)
        z = self._top.run((self._read(("ln_f/g", "ln_f/b")), x), batch.picks)
        return self.head.loss(self._wte(), z, batch.targets, batch.weights)

    def gradients(
        self, batch: Batch, scale: float, seed: int = 0, step: int = 0
    ) -> tuple[Tensor, Iterator[tuple[str, Gradients]]]:
        """The sum of the weighted losses of a batch, and the way back.

        Args:
            scale: what the gradients are multiplied by.
            seed, step: of the dropouts.

        Returns:
            The loss in nats, and the gradients of one part after another, from the last to the first: its prefix, as
            `h11/`, and gradients by the names within it. Once they are taken, the part's weights may change.
        """
        blocks = len(self.model.blocks)
        draws = [np.array([seed, step * DRAWS + i * BLOCK_DRAWS]).astype("uint32") for i in range(blocks + 1)]
        tokens, batch = batch.tokens, self.place(batch)
        x, bias, piece = self._enter(batch), self._bias(batch.segments), self._piece(batch)
        pulls: list[Pull] = []
        if self.model.dropout:
            x, pull_dropout = self._drop.recomputing(x, draws[blocks])
        for i in range(blocks):
            rest = bias, draws[i] if self.model.dropout else None
            if i < self.first:
                x = piece.run(*self._block_inputs(i, x), *rest)
            elif self.remat:
                pulls.append(functools.partial(self._recompute, piece, i, x, rest))
                x = piece.run(*self._block_inputs(i, x), *rest)
            else:
                x, pull = piece.saving(*self._block_inputs(i, x), *rest)
                pulls.append(pull)
        if self.remat:
            trim()
        z, pull_top = self._top.saving((self._read(("ln_f/g", "ln_f/b")), x), batch.picks)
        loss, of_z, dense, rows = self.head.gradients(self._wte(), z, batch.targets, batch.weights, scale)
        of_head: list[Tensor] = [dense]  # a list, so that what is in it can go when it has been used

        def back(pull_top: Pull, of_z: Tensor) -> Iterator[tuple[str, Gradients]]:
            gradients, dx = pull_top(of_z)
            yield "", {name: gradient for name, gradient in gradients.items() if name in self.trained}
            for i in reversed(range(self.first, blocks)):
                gradients, dx = pulls.pop()(dx)
                yield f"h{i}/", gradients
                del gradients
            found = {}
            if self.model.dropout and self.trained & {"wte", "wpe"}:
                dx = pull_dropout(dx)
            if "wpe" in self.trained:
                found["wpe"] = self._sum_positions(dx, batch.positions)
            if "wte" in self.trained:
                ids = np.concatenate([filled_like(tokens, batch.tokens), batch.targets])
                unique, inverse = np.unique(ids, return_inverse=True)
                unique = np.pad(unique, (0, len(ids) - len(unique)))  # rows of 0 are added to token 0
                dense = of_head.pop()
                sums = ops.cast(self._sum_rows(dx, rows, inverse.astype("int32")), dense.dtype)
                found["wte"] = self._add_rows(dense, unique.astype("int32"), sums)
                del dense
            yield "", found

        return loss, back(pull_top, of_z)

    def _piece(self, batch: Batch) -> Piece:
        return self._blocks[batch.tokens.shape[1] >= HALVED]

    def _enter(self, batch: Batch) -> Tensor:
        return self._embed(self._read(("wte", "wpe")), batch.tokens, batch.positions)

    def _recompute(self, piece: Piece, i: int, x: Tensor, rest: tuple, dx: Tensor) -> tuple[Gradients, Tensor]:
        inputs, frozen = self._block_inputs(i, x)
        return piece.pulled(inputs, dx, frozen, *rest)

    def _block_inputs(self, i: int, x: Tensor) -> tuple[tuple[dict[str, Tensor], Tensor], dict[str, Tensor]]:
        """What gradients are by, trained weights and x; and frozen weights."""
        weights = {name: value_of(variable) for name, variable in self.model.blocks[i].items()}
        trained = {name: weights.pop(name) for name in list(weights) if f"h{i}/{name}" in self.trained}
        return (self._narrow(trained), x), weights

    def _read(self, names: Collection[str]) -> dict[str, Tensor]:
        return {name: value_of(self.model.ends[name]) for name in names}

    def _wte(self) -> Tensor:
        return self._narrow(self._read(["wte"]))["wte"]

    def _block_graph(
        self, inputs: tuple[dict[str, Tensor], Tensor], frozen: Any, bias: Tensor, draws: Tensor, attending: Attend
    ) -> Tensor:
        trained, x = inputs
        weights, n_head = frozen | trained, self.model.config.n_head
        if draws is None:
            return transformer_block(weights, x, n_head, functools.partial(attending, bias=bias), activation=fast.gelu)[
                0
            ]
        drop = self.model.drop
        how = functools.partial(attend, bias=bias, drop=drop)
        return self._drawing(draws, lambda: transformer_block(weights, x, n_head, how, drop, fast.gelu)[0])

    def _drawing(self, draws: Tensor, function: Callable[[], Tensor]) -> Tensor:
        """Calls a function with the random state that its dropouts begin at."""
        state = ops.reshape(draws, (2,))  # a size that the graph of a kernel does not know by itself
        with keras.StatelessScope(state_mapping=[(self.model.dropout_seed.state, state)]):
            return function()


def filled_like(tokens: np.ndarray, placed: Tensor) -> np.ndarray:
    """Ids [B, T] in a row, with token 0 for the rows that were added where they were placed."""
    return np.pad(tokens.ravel(), (0, math.prod(placed.shape) - tokens.size))


def visible(segments: Tensor) -> Tensor:
    """Segments [B, T] → bool [B, 1, T, T], where the second may be seen from the first."""
    own = segments[:, None, :, None] == segments[:, None, None, :]
    return ops.logical_and(causal_mask(ops.shape(segments)[1]), own)


def narrow(weights: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Matrices in the dtype that is computed in; vectors stay as they are."""
    return {name: ops.cast(x, dtype) if len(x.shape) == 2 else x for name, x in weights.items()}


def top(inputs: tuple[dict[str, Tensor], Tensor], picks: Tensor) -> Tensor:
    """The last layer norm of the picked places: [B, T, C] → [K, C]."""
    weights, x = inputs
    return layer_norm(ops.take(flat(x), picks, axis=0), weights, "ln_f")


def flat(x: Tensor) -> Tensor:
    """[B, T, C] → [B·T, C]."""
    return ops.reshape(x, (-1, x.shape[-1]))


def segment_sum(dx: Tensor, where: Tensor, count: int) -> Tensor:
    """[B, T, C] and numbers [B, T] → the sums of the rows of each number, float32 [count, C]."""
    return ops.segment_sum(flat(ops.cast(dx, "float32")), ops.reshape(where, (-1,)), count)


def sum_rows(dx: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """The rows that the token embedding's gradient gets from the tokens (dx) and from the targets, summed by token.

    inverse: to which sum each of them goes. Float32.
    """
    both = ops.concatenate([flat(ops.cast(dx, "float32")), rows])
    return ops.segment_sum(both, inverse, len(inverse))
