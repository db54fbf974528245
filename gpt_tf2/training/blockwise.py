"""A model's loss and gradients, block by block.

The forward pass calls one compiled function per part: embedding, each block, last layer norm, loss. The backward pass
yields the gradients of one part at a time, from the last to the first, so that the caller can update a part's weights
and forget its gradients before the next part's are computed (LOMO, Lv et al. 2023). One compiled block serves all.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import compile_kernel, make_row_adder, read_value
from gpt_tf2.backend.memory import trim_heap
from gpt_tf2.config import output_matrix
from gpt_tf2.data.batches import Batch, PairBatch
from gpt_tf2.model import GPT2, Tensor, attend, attention_bias, embed, segment_mask, transformer_block
from gpt_tf2.training import custom_gradients
from gpt_tf2.training.chunks import count_chunk_logits
from gpt_tf2.training.dpo import weigh_pairs
from gpt_tf2.training.loss import ChunkedLoss
from gpt_tf2.training.pullbacks import DifferentiableFunction, Pullback

DRAWS_PER_STEP = 1 << 12  # states of the random generator that one step's dropout may use
DRAWS_PER_BLOCK = 1 << 3
ATTENTION_PARTS = 4, 2, 1  # of the tokens; see `custom_gradients.attend`
PART = 256  # tokens: smaller parts are slower

Gradients = dict[str, Tensor]  # by names within a part


class BlockwiseModel:
    """Computes a model's loss and gradients, block by block.

    Args:
        model: the network; its variables are read at every call.
        trained: OpenAI's names of the tensors to compute gradients of.
        remat: whether the backward pass recomputes each block from its input (activation checkpointing), instead of
            keeping the block's activations since the forward pass.
    """

    def __init__(self, model: GPT2, trained: Collection[str], remat: bool = False):
        self.model = model
        self.trained = frozenset(trained)
        self.remat = remat
        self.first_trained = self._find_first_trained()
        self.output = output_matrix(model.config)
        self.head = ChunkedLoss(self.output in self.trained, count_chunk_logits(remat))
        dtype = model.compute_dtype
        self._bias = compile_kernel(lambda segments: attention_bias(segment_mask(segments), dtype))
        self._cast_matrices = (
            dict if dtype == "float32" else compile_kernel(lambda weights: cast_matrices(weights, dtype))
        )
        self._embed = compile_kernel(lambda weights, tokens, positions: embed(weights, tokens, positions, dtype))
        self._dropout = DifferentiableFunction(lambda x, draws: self._with_draws(draws, lambda: model.drop(x)))
        self._blocks = {
            parts: DifferentiableFunction(functools.partial(self._run_block, parts=parts)) for parts in ATTENTION_PARTS
        }
        self._last_norm = DifferentiableFunction(normalize_picks)
        self._sum_by_token = compile_kernel(sum_by_token)
        self._add_rows = make_row_adder()
        self._sum_by_position = compile_kernel(lambda dx, positions: sum_by_position(dx, positions, model.config.n_ctx))

    def loss(self, batch: Batch) -> Tensor:
        """Compute the sum of a batch's weighted losses, in nats, without dropout; for pairs those of `weigh_pairs`."""
        z = self._run(batch)
        if isinstance(batch, PairBatch):
            return self._weigh_pairs(batch, z)[0]
        return self.head.loss(self._read_output(), z, batch.targets, batch.weights)

    def log_probabilities(self, batch: Batch) -> Tensor:
        """Compute the log-probabilities of a batch's targets, float32 [K], in nats, without dropout."""
        return self.head.log_probabilities(self._read_output(), self._run(batch), batch.targets)

    def gradients(
        self, batch: Batch, scale: float, seed: int = 0, step: int = 0
    ) -> tuple[Tensor, Iterator[tuple[str, Gradients]]]:
        """Run the forward pass, and return an iterator that runs the backward pass.

        Args:
            scale: factor of the gradients.
            seed, step: decide what dropout drops.

        Returns:
            The sum of the batch's weighted losses, in nats, for pairs the sums of `weigh_pairs`; and an iterator over
            the parts, from the last to the first. Each item is the part's prefix, such as `h11/`, and its gradients by
            the names within the part. Once an item is taken, the part's weights may change.
        """
        x, pullbacks = self._forward(batch, seed, step)
        if self.remat:
            trim_heap()
        z, pull_norm = self._last_norm.run_and_keep((self._read_ends(("ln_f/g", "ln_f/b")), x), batch.picks)  # [K, C]
        figures, weights = self._weigh_pairs(batch, z) if isinstance(batch, PairBatch) else (None, batch.weights)
        loss, dz, dense, rows = self.head.gradients(self._read_output(), z, batch.targets, weights, scale)
        return loss if figures is None else figures, self._backward(batch, [*pullbacks, pull_norm], dz, dense, rows)

    def _run(self, batch: Batch) -> Tensor:
        """Return the hidden states of the tokens whose next token is learned [K, C], without dropout."""
        x, bias, block = self._embed_batch(batch), self._bias(batch.segments), self._choose_block(batch)
        for i in range(len(self.model.blocks)):
            x = block.run(*self._block_inputs(i, x), bias, None)  # [B, T, C]
        return self._last_norm.run((self._read_ends(("ln_f/g", "ln_f/b")), x), batch.picks)

    def _weigh_pairs(self, batch: PairBatch, z: Tensor) -> tuple[Tensor, np.ndarray]:
        """Return what `weigh_pairs` does, from the hidden states of `_run`."""
        log_probabilities = self.head.log_probabilities(self._read_output(), z, batch.targets)
        figures, weights = weigh_pairs(log_probabilities, vars(batch))
        return figures, np.asarray(weights)

    def _forward(self, batch: Batch, seed: int, step: int) -> tuple[Tensor, list[Pullback]]:
        """Return the last block's output [B, T, C], and the pullbacks of dropout and of the blocks, in this order."""
        count = len(self.model.blocks)
        draws = [
            np.array([seed, step * DRAWS_PER_STEP + i * DRAWS_PER_BLOCK]).astype("uint32") for i in range(count + 1)
        ]
        x, bias, block = self._embed_batch(batch), self._bias(batch.segments), self._choose_block(batch)
        pullbacks: list[Pullback] = []
        if self.model.dropout:
            x, pull_dropout = self._dropout.run_and_recompute(x, draws[count])
            pullbacks.append(pull_dropout)
        for i in range(count):
            constants = bias, draws[i] if self.model.dropout else None
            if i < self.first_trained:
                x = block.run(*self._block_inputs(i, x), *constants)
            elif self.remat:
                pullbacks.append(functools.partial(self._recompute, block, i, x, constants))
                x = block.run(*self._block_inputs(i, x), *constants)
            else:
                x, pull_block = block.run_and_keep(*self._block_inputs(i, x), *constants)
                pullbacks.append(pull_block)
        return x, pullbacks

    def _backward(
        self, batch: Batch, pullbacks: list[Pullback], dz: Tensor, dense: Tensor, rows: Tensor
    ) -> Iterator[tuple[str, Gradients]]:
        """Yield the gradients of the last layer norm, of the blocks from the last to the first, of the embeddings.

        Args:
            pullbacks: of `_forward` and the last layer norm. Each is dropped, with what it keeps, once it is used.
            dz, dense, rows: of `ChunkedLoss.gradients`.
        """
        gradients, dx = pullbacks.pop()(dz)
        of_end = {name: gradient for name, gradient in gradients.items() if name in self.trained}
        if self.output != "wte":
            if self.output in self.trained:
                of_end[self.output] = self._add_by_token(dense, dx[:0], rows, batch.targets)
            del dense
        yield "", of_end
        del of_end
        for i in reversed(range(self.first_trained, len(self.model.blocks))):
            gradients, dx = pullbacks.pop()(dx)
            yield f"h{i}/", gradients
            del gradients
        of_embeddings = {}
        if self.model.dropout and self.trained & {"wte", "wpe"}:
            dx = pullbacks.pop()(dx)
        if "wpe" in self.trained:
            of_embeddings["wpe"] = self._sum_by_position(dx, batch.positions)
        if "wte" in self.trained:
            if self.output == "wte":
                ids = np.concatenate([batch.tokens.ravel(), batch.targets])
            else:
                ids, dense, rows = batch.tokens.ravel(), ops.zeros(self.model.ends["wte"].shape, dz.dtype), rows[:0]
            of_embeddings["wte"] = self._add_by_token(dense, dx, rows, ids)
            del dense
        yield "", of_embeddings

    def _add_by_token(self, dense: Tensor, dx: Tensor, rows: Tensor, ids: np.ndarray) -> Tensor:
        """Add the sparse part of a matrix's gradient to the dense one, whose memory it takes; see `sum_by_token`.

        ids: the rows of the matrix that dx and `rows` are added to.
        """
        unique, inverse = np.unique(ids, return_inverse=True)
        unique = np.pad(unique, (0, len(ids) - len(unique)))  # the padding adds 0 to token 0
        sums = ops.cast(self._sum_by_token(dx, rows, inverse.astype("int32")), dense.dtype)
        return self._add_rows(dense, unique.astype("int32"), sums)

    def _find_first_trained(self) -> int:
        """The number of the first block that gradients must pass; the number of blocks if they pass none."""
        if self.trained & {"wte", "wpe"}:
            return 0
        numbers = range(len(self.model.blocks))
        return next((i for i in numbers if any(name.startswith(f"h{i}/") for name in self.trained)), len(numbers))

    def _choose_block(self, batch: Batch) -> DifferentiableFunction:
        time = batch.tokens.shape[1]
        return next(block for parts, block in self._blocks.items() if time >= parts * PART or parts == 1)

    def _embed_batch(self, batch: Batch) -> Tensor:
        return self._embed(self._read_ends(("wte", "wpe")), batch.tokens, batch.positions)  # [B, T, C]

    def _recompute(
        self, block: DifferentiableFunction, i: int, x: Tensor, constants: tuple, dx: Tensor
    ) -> tuple[Gradients, Tensor]:
        """Return the gradients of block i's weights and of its input x."""
        inputs, frozen = self._block_inputs(i, x)
        return block.pull_back(inputs, dx, frozen, *constants)

    def _block_inputs(self, i: int, x: Tensor) -> tuple[tuple[dict[str, Tensor], Tensor], dict[str, Tensor]]:
        """Return what block i is differentiated by, its trained weights and x; and its frozen weights."""
        weights = {name: read_value(variable) for name, variable in self.model.blocks[i].items()}
        trained = {name: weights.pop(name) for name in list(weights) if f"h{i}/{name}" in self.trained}
        return (self._cast_matrices(trained), x), weights

    def _read_ends(self, names: Collection[str]) -> dict[str, Tensor]:
        return {name: read_value(self.model.ends[name]) for name in names}

    def _read_output(self) -> Tensor:
        return self._cast_matrices(self._read_ends([self.output]))[self.output]

    def _run_block(
        self,
        inputs: tuple[dict[str, Tensor], Tensor],
        frozen: Any,
        bias: Tensor,
        draws: Tensor | None,
        parts: int,
    ) -> Tensor:
        """The function that is compiled for a block: its output [B, T, C]."""
        trained, x = inputs
        run = functools.partial(transformer_block, frozen | trained, x, self.model.config.n_head)
        if draws is None:
            attention = functools.partial(custom_gradients.attend, bias=bias, parts=parts)
            return run(attention, custom_gradients.FUNCTIONS)[0]
        drop = self.model.drop
        attention, functions = functools.partial(attend, bias=bias, drop=drop), custom_gradients.with_dropout(drop)
        return self._with_draws(draws, lambda: run(attention, functions)[0])

    def _with_draws(self, draws: Tensor, function: Callable[[], Tensor]) -> Tensor:
        """Call a function with its dropout starting at a state of the random generator, uint32 [2]."""
        state = ops.reshape(draws, (2,))  # a kernel's graph does not know this size
        with keras.StatelessScope(state_mapping=[(self.model.dropout_seed.state, state)]):
            return function()


def cast_matrices(weights: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Cast matrices to the dtype to compute in; vectors keep theirs."""
    return {name: ops.cast(x, dtype) if len(x.shape) == 2 else x for name, x in weights.items()}


def normalize_picks(inputs: tuple[dict[str, Tensor], Tensor], picks: Tensor) -> Tensor:
    """Apply the last layer norm to the tokens whose next token is learned: [B, T, C] → [K, C]."""
    weights, x = inputs
    return custom_gradients.layer_norm(ops.take(flatten(x), picks, axis=0), weights, "ln_f")


def flatten(x: Tensor) -> Tensor:
    """[B, T, C] → [B·T, C]."""
    return ops.reshape(x, (-1, x.shape[-1]))


def sum_by_position(dx: Tensor, positions: Tensor, n_ctx: int) -> Tensor:
    """Sum dx [B, T, C] by positions [B, T]: the position embedding's gradient, float32 [n_ctx, C]."""
    return ops.segment_sum(flatten(ops.cast(dx, "float32")), ops.reshape(positions, (-1,)), n_ctx)


def sum_by_token(dx: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """Sum the sparse part of the token embedding's gradient by token, float32 [B·T + K, C].

    Args:
        dx: gradient of the embedded tokens [B, T, C].
        rows: gradient of the targets' rows [K, C].
        inverse: the number of the sum that each of them goes to [B·T + K].
    """
    both = ops.concatenate([flatten(ops.cast(dx, "float32")), rows])
    return ops.segment_sum(both, inverse, ops.shape(inverse)[0])
