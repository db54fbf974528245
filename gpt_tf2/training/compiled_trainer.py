"""One training step as one compiled graph, on JAX: gradients, accumulation, clipping and update.

Weights and optimizer state are donated: XLA updates a tensor in its own memory as soon as its gradient is known, so the
gradients of all blocks need not be alive together. The parts are those of `model.py`, which `blockwise.py` runs one at
a time on TensorFlow. Both compute the same numbers.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import lax
from keras import ops

from gpt_tf2.data.batches import Batch, parts
from gpt_tf2.model import (
    GPT2,
    SameShape,
    Tensor,
    after_attention,
    attend,
    attention_bias,
    before_attention,
    embed,
    identity,
    layer_norm,
    merge_heads,
    split_heads,
)
from gpt_tf2.training import custom_gradients
from gpt_tf2.training.blockwise import (
    DRAWS_PER_BLOCK,
    DRAWS_PER_STEP,
    Shard,
    cast_matrices,
    flatten,
    normalize_picks,
    segment_mask,
    unsharded,
)
from gpt_tf2.training.blockwise_trainer import zeros
from gpt_tf2.training.chunks import count_chunk_logits
from gpt_tf2.training.compiled_loss import cross_entropy
from gpt_tf2.training.optimizers import Optimizer, OptimizerState
from gpt_tf2.training.step_state import StepState

DENSE = 0.8  # share of a batch's tokens that are predicted from which on predicting all of them is faster
GPU_LOGITS = 1 << 28  # logits alive at once on a GPU, about 5,300 tokens of GPT-2's vocabulary; with remat an eighth

Arrays = dict[str, Tensor]  # by OpenAI's names


class CompiledTrainer:
    """A `Trainer` whose step is one graph of XLA's. `step` returns while the device is still computing.

    For the arguments see `make_trainer`.
    """

    steps_ahead = 3

    def __init__(
        self,
        model: GPT2,
        optimizer: Optimizer,
        trained: Collection[str] | None = None,
        remat: bool = False,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        shard: Shard = unsharded,
    ):
        self.optimizer = optimizer
        self.remat = remat
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.shard = shard
        self.scales_loss = model.compute_dtype == "float16"
        self.step_state = StepState.first(self.scales_loss)
        self._model = model
        names = [name for name in model.tensors() if not trained or name in trained]
        self._trained = {name: model.tensors()[name] for name in names}
        of_blocks = {f"h{i}/{name}": v for i, block in enumerate(model.blocks) for name, v in block.items()}
        self._frozen = {name: v for name, v in (of_blocks | model.ends).items() if name not in self._trained}
        self._optimizer_state = {
            name: tuple(zeros(shape, f"{name}/{i}") for i, shape in enumerate(optimizer.state_shapes(variable.shape)))
            for name, variable in self._trained.items()
        }
        self._arrays: dict[str, tuple[Tensor, OptimizerState]] | None = None  # newer than the variables
        self._step = jax.jit(self._compute_step, donate_argnums=0, static_argnames="packed")
        self._loss = jax.jit(self._compute_loss, static_argnames="packed")

    @property
    def model(self) -> GPT2:
        """The network, its variables up to date."""
        self._write_back()
        return self._model

    @property
    def trained(self) -> dict[str, keras.Variable]:
        """The trained variables by OpenAI's names, up to date."""
        self._write_back()
        return self._trained

    @property
    def optimizer_state(self) -> dict[str, tuple[keras.Variable, ...]]:
        """For each trained variable a tuple of variables, up to date."""
        self._write_back()
        return self._optimizer_state

    def _write_back(self) -> None:
        """Assign the arrays of the last step to the variables. That takes milliseconds, so a step does not do it."""
        for name, (weight, state) in (self._arrays or {}).items():
            self._trained[name].assign(weight)
            for variable, array in zip(self._optimizer_state[name], state, strict=True):
                variable.assign(array)
        self._arrays = None

    def _read_arrays(self) -> dict[str, tuple[Tensor, OptimizerState]]:
        """The arrays of the last step, or those of the variables, which may have been loaded since."""
        return self._arrays or {
            name: (variable.value, tuple(tensor.value for tensor in self._optimizer_state[name]))
            for name, variable in self._trained.items()
        }

    def step(self, batch: Batch, rate: float, seed: int = 0, step: int = 0) -> Tensor:
        """Train on a batch once.

        Args:
            rate: the learning rate.
            seed, step: decide what dropout drops.

        Returns:
            The mean loss before the update, in nats: a float32 scalar on the device, which may still be computing it.
        """
        count, state = len(self._model.blocks), self.step_state
        first_draws = step * DRAWS_PER_STEP + DRAWS_PER_BLOCK * np.arange(count + 1)
        draws = np.stack([np.full(count + 1, seed), first_draws], axis=1).astype("uint32")  # [blocks + 1, 2]
        self._arrays, loss, is_finite = self._step(
            self._read_arrays(),
            {name: variable.value for name, variable in self._frozen.items()},
            self._split(batch),
            draws,
            np.float32(batch.weights.sum()),
            np.float32(rate),
            np.float32(state.updates + 1),
            np.float32(state.loss_scale),
            packed=is_packed(batch),
        )
        if self.scales_loss and not bool(is_finite):
            state.skip_update()
        else:
            state.count_update(self.scales_loss)
        return loss

    def loss(self, batch: Batch) -> float:
        """Compute the mean loss on a batch, in nats, without dropout."""
        weights = {name: weight for name, (weight, _) in self._read_arrays().items()}
        frozen = {name: variable.value for name, variable in self._frozen.items()}
        total = self._loss(weights | frozen, vars(self.shard(batch)), packed=is_packed(batch))
        return float(total) / float(batch.weights.sum())

    def _split(self, batch: Batch) -> tuple[Arrays, ...]:
        """The micro-batches of a batch, equal in shape, on the devices."""
        micro = parts(batch, self.accumulate)
        rows, picks = max(len(part.tokens) for part in micro), max(len(part.picks) for part in micro)
        padded = [pad(part, rows, picks) for part in micro]
        if self.shard is unsharded and picks > DENSE * micro[0].tokens.size:
            return tuple(predict_everywhere(part) for part in padded)
        return tuple(vars(self.shard(part)) for part in padded)

    def _compute_step(
        self,
        arrays: dict[str, tuple[Tensor, OptimizerState]],
        frozen: Arrays,
        micro: tuple[Arrays, ...],
        draws: Tensor,
        total: Tensor,
        rate: Tensor,
        update: Tensor,
        loss_scale: Tensor,
        packed: bool,
    ) -> tuple[dict[str, tuple[Tensor, OptimizerState]], Tensor, Tensor]:
        """The new weights and optimizer state, the mean loss, and whether the gradients are finite."""
        weights = {name: weight for name, (weight, _) in arrays.items()}

        def scaled_loss(weights: Arrays, batch: Arrays) -> Tensor:
            return self._run(weights | frozen, batch, loss_scale / total, draws, packed)

        if len(micro) == 1:
            loss, gradients = jax.value_and_grad(scaled_loss)(weights, micro[0])
        else:
            start = jnp.float32(0), jax.tree.map(lambda w: jnp.zeros(w.shape, "float32"), weights)
            stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *micro)

            def add(sums: Any, batch: Arrays) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, sums, jax.value_and_grad(scaled_loss)(weights, batch)), None

            (loss, gradients), _ = lax.scan(add, start, stacked)
        factor, is_finite = 1 / loss_scale, jnp.bool_(True)
        if self.clip_norm or self.scales_loss:
            norm = factor * jnp.sqrt(sum(jnp.sum(jnp.square(g.astype("float32"))) for g in gradients.values()))
            is_finite = jnp.isfinite(norm)
            if self.clip_norm:
                factor = factor * jnp.minimum(1.0, self.clip_norm / (norm + 1e-6))
        new = {
            name: self.optimizer.update(weights[name], gradient * factor, arrays[name][1], rate, update)
            for name, gradient in gradients.items()
        }
        if self.scales_loss:  # a step whose gradients overflow changes nothing
            new = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, arrays)
        return new, loss / loss_scale, is_finite

    def _compute_loss(self, weights: Arrays, batch: Arrays, packed: bool) -> Tensor:
        return self._run(weights, batch, jnp.float32(1), None, packed)

    def _run(self, weights: Arrays, batch: Arrays, scale: Tensor, draws: Tensor | None, packed: bool) -> Tensor:
        """The sum of a micro-batch's weighted losses times `scale`. No draws: no dropout."""
        model, dtype = self._model, self._model.compute_dtype
        if not model.dropout:
            draws = None
        x = embed(weights, batch["tokens"], batch["positions"], dtype)  # [B, T, C]
        if draws is not None:
            x = with_draws(model, draws[-1], lambda: model.drop(x))
        uses_flash = draws is None and can_use_flash(dtype)
        segments = batch["segments"]
        bias = None if uses_flash and not packed else attention_bias(segment_mask(segments), dtype)  # [B, 1, T, T]
        block: Callable[..., Tensor] = jax.jit(functools.partial(run_block, model, uses_flash))  # traced once for all
        block = jax.checkpoint(block) if self.remat else block
        for i in range(len(model.blocks)):
            prefix = f"h{i}/"
            part = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
            x = block(part, x, bias, None if draws is None else draws[i])
        if batch["picks"] is None:
            z = flatten(layer_norm(x, weights, "ln_f"))  # [B·T, C]
        else:
            z = normalize_picks((weights, x), batch["picks"])  # [K, C]
        wte = ops.cast(weights["wte"], dtype)
        chunk = max(1, count_logits(self.remat) // len(wte))  # predicted tokens
        return cross_entropy(z, wte, batch["targets"], batch["weights"], scale, chunk, "wte" in self._trained)


def run_block(model: GPT2, uses_flash: bool, weights: Arrays, x: Tensor, bias: Tensor | None, draws: Any) -> Tensor:
    """One transformer block, [B, T, C] → [B, T, C], from the parts of `model.py`."""
    weights, n_head = cast_matrices(weights, model.compute_dtype), model.config.n_head

    def run(drop: SameShape) -> Tensor:
        qkv = before_attention(weights, x)  # [B, T, 3·C]
        if uses_flash:
            attended = attend_by_flash(qkv, n_head, bias)
        else:
            query, keys, values = (split_heads(part, n_head) for part in ops.split(qkv, 3, axis=-1))
            attended = merge_heads(attend(query, keys, values, bias, drop=drop))
        return after_attention(weights, x, attended, drop, custom_gradients.gelu)

    return run(identity) if draws is None else with_draws(model, draws, lambda: run(model.drop))


def attend_by_flash(qkv: Tensor, n_head: int, bias: Tensor | None) -> Tensor:
    """cuDNN's flash attention: queries, keys and values [B, T, 3·C] → [B, T, C], causal.

    Args:
        bias: of `attention_bias`; None where a sequence holds one text, which needs less memory traffic.
    """
    batch, time, width = qkv.shape
    shape = (batch, time, n_head, width // 3 // n_head)
    query, keys, values = (part.reshape(shape) for part in jnp.split(qkv, 3, axis=-1))  # [B, T, H, D]
    attended = jax.nn.dot_product_attention(query, keys, values, bias, is_causal=bias is None, implementation="cudnn")
    return attended.reshape(batch, time, width // 3)


def can_use_flash(dtype: str) -> bool:
    """Whether cuDNN's flash attention runs here: on a GPU, in half precision."""
    return jax.default_backend() == "gpu" and dtype in ("bfloat16", "float16")


def with_draws(model: GPT2, draws: Tensor, function: Callable[[], Tensor]) -> Tensor:
    """Call a function with its dropout starting at a state of the random generator, uint32 [2]."""
    with keras.StatelessScope(state_mapping=[(model.dropout_seed.state, draws)]):
        return function()


def count_logits(remat: bool) -> int:
    """How many logits are alive at once."""
    if jax.default_backend() == "gpu":
        return GPU_LOGITS // 8 if remat else GPU_LOGITS
    return count_chunk_logits(remat)


def predict_everywhere(batch: Batch) -> dict[str, Any]:
    """A batch whose every token has a target, of weight 0 where none is learned, so that no token need be picked."""
    targets, weights = np.zeros(batch.tokens.size, "int32"), np.zeros(batch.tokens.size, "float32")
    learned = batch.weights > 0  # others only fill up
    targets[batch.picks[learned]], weights[batch.picks[learned]] = batch.targets[learned], batch.weights[learned]
    return {**vars(batch), "picks": None, "targets": targets, "weights": weights}


def is_packed(batch: Batch) -> bool:
    """Whether a sequence of the batch holds more than one segment, or padding."""
    return bool((batch.segments != 1).any())


def pad(batch: Batch, rows: int, picks: int) -> Batch:
    """A batch with empty sequences and picks of weight 0 added, so that it has `rows` and `picks` of them."""
    more_rows, more_picks = rows - len(batch.tokens), picks - len(batch.picks)
    if not more_rows and not more_picks:
        return batch
    of_rows = {
        name: np.pad(getattr(batch, name), ((0, more_rows), (0, 0))) for name in ("tokens", "positions", "segments")
    }
    of_picks = {name: np.pad(getattr(batch, name), (0, more_picks)) for name in ("picks", "targets", "weights")}
    return Batch(**of_rows, **of_picks)
