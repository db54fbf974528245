"""One training step as one graph, on JAX: gradients, accumulation, clipping and update.

Weights and optimizer state are donated: XLA updates a tensor in its own memory as soon as its gradient is known, so the
gradients of all blocks need not be alive together. The parts are those of `model.py`, which `blockwise.py` runs one at
a time on TensorFlow. Both compute the same numbers.

On several devices each computes the gradients of its own sequences. Where weights are split, a block's are gathered
when it runs, and each device receives the summed gradients of its share.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from keras import ops

from gpt_tf2.backend.hardware import has_fast_bfloat16
from gpt_tf2.config import GPT2Config, output_matrix
from gpt_tf2.model import (
    SameShape,
    Tensor,
    after_attention,
    attend,
    attention_bias,
    before_attention,
    embed,
    identity,
    merge_heads,
    segment_mask,
    split_heads,
)
from gpt_tf2.training import custom_gradients
from gpt_tf2.training.blockwise import normalize_picks
from gpt_tf2.training.chunks import count_chunk_logits
from gpt_tf2.training.compiled_loss import cross_entropy, log_probabilities
from gpt_tf2.training.devices import AXIS, Devices
from gpt_tf2.training.dpo import FIGURES, weigh_pairs
from gpt_tf2.training.optimizers import Optimizer, OptimizerState

GPU_LOGITS = 1 << 28  # logits alive at once on a GPU, about 5,300 tokens of GPT-2's vocabulary; with remat an eighth
GATHERED = "gathered"  # the name of split weights that are gathered, which a block gathers again for its gradients

Arrays = dict[str, Tensor]  # by OpenAI's names
Axes = Mapping[str, int | None]  # the axis along which a tensor is split, by its name
Trained = dict[str, tuple[Tensor, OptimizerState]]  # trained tensors with their optimizer state


@dataclasses.dataclass(frozen=True)
class StepGraph:
    """A step as a pure function of arrays. Two that are equal share what JAX compiles for them.

    dtype: to compute in.
    trained: OpenAI's names of the trained tensors.
    The other fields are those of `make_trainer`.
    """

    config: GPT2Config
    dtype: str
    dropout: float
    optimizer: Optimizer
    trained: frozenset[str]
    remat: bool
    clip_norm: float
    devices: Devices

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled, so that gradients do not underflow."""
        return self.dtype == "float16"

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1, static_argnames="packed")
    def step(
        self,
        arrays: Trained,
        frozen: Arrays,
        micro: tuple[Arrays, ...],
        draws: Tensor,
        total: Tensor,
        rate: Tensor,
        update: Tensor,
        loss_scale: Tensor,
        packed: bool,
    ) -> tuple[Trained, Tensor, Tensor]:
        """Take a step.

        Args:
            arrays: donated. frozen: the other tensors.
            micro: the micro-batches, equal in shape, as dictionaries of `Batch`'s arrays.
            draws: states of the random generator of dropout, uint32 [blocks + 1, 2]; the last is the embeddings'.
            total: what the sum of the losses is divided by; see `Batch`.
            rate: the learning rate. update: the number of this update, from 1.
            loss_scale: factor of the loss while gradients are computed.
            packed: whether a sequence holds several segments, or padding.

        Returns:
            The new arrays, the mean loss, for pairs the mean `FIGURES`, and whether the gradients are finite.
        """
        weights = {name: weight for name, (weight, _) in arrays.items()}
        loss, gradients = self._sum_gradients(weights, frozen, micro, draws, loss_scale / total, packed)
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
        if self.devices.mesh:
            new = jax.tree.map(lambda a: lax.with_sharding_constraint(a, self.devices.sharding(a.shape)), new)
        return new, loss / loss_scale, is_finite

    @functools.partial(jax.jit, static_argnums=0, static_argnames="packed")
    def loss(self, weights: Arrays, batch: Arrays, packed: bool) -> Tensor:
        """The sum of a batch's weighted losses, in nats, without dropout; for pairs the sums of `weigh_pairs`."""
        run = functools.partial(run_network, self, axes=self._axes(weights), scale=jnp.float32(1), packed=packed)
        return self._on_devices(
            lambda weights, batch: self._sum(run(weights, batch)[1]), PartitionSpec(), weights, batch
        )

    def _sum_gradients(
        self, weights: Arrays, frozen: Arrays, micro: tuple[Arrays, ...], draws: Tensor, scale: Tensor, packed: bool
    ) -> tuple[Tensor, Arrays]:
        """The sums of the losses and of their gradients, over micro-batches and devices."""
        axes = self._axes(weights | frozen)

        def compute(tensors: Arrays, micro: tuple[Arrays, ...], draws: Tensor, scale: Tensor) -> tuple[Tensor, Arrays]:
            """What one device computes, of its own sequences."""
            weights = {name: tensor for name, tensor in tensors.items() if name in self.trained}
            frozen = {name: tensor for name, tensor in tensors.items() if name not in self.trained}
            if self.devices.mesh:  # each drops other activations
                draws = jax.vmap(lambda draw: jax.random.fold_in(draw, lax.axis_index(AXIS)))(draws)

            @functools.partial(jax.value_and_grad, has_aux=True)
            def run(weights: Arrays, batch: Arrays) -> tuple[Tensor, Tensor]:
                return run_network(self, weights | frozen, batch, axes=axes, scale=scale, packed=packed, draws=draws)

            if len(micro) == 1:
                (_, loss), gradients = run(weights, micro[0])
            else:
                loss = jnp.zeros(len(FIGURES) if is_of_pairs(micro[0]) else (), "float32")
                start = loss, jax.tree.map(lambda w: jnp.zeros(w.shape, "float32"), weights)
                stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *micro)

                def add(sums: Any, batch: Arrays) -> tuple[Any, None]:
                    (_, loss), gradients = run(weights, batch)
                    return jax.tree.map(jnp.add, sums, (loss, gradients)), None

                (loss, gradients), _ = lax.scan(add, start, stacked)
            # Gathering a split tensor sums its gradient already.
            summed = {name: g if axes[name] is not None else self._sum(g) for name, g in gradients.items()}
            return self._sum(loss), summed

        out = PartitionSpec(), {name: self.devices.spec(weight.shape) for name, weight in weights.items()}
        return self._on_devices(compute, out, weights | frozen, micro, draws, scale)

    def _on_devices(self, function: Callable, out_specs: Any, weights: Arrays, batch: Any, *shared: Tensor) -> Any:
        """Call a function on each device, with its share of the weights and of the batch."""
        if not self.devices.mesh:
            return function(weights, batch, *shared)
        of_weights = {name: self.devices.spec(weight.shape) for name, weight in weights.items()}
        in_specs = (of_weights, PartitionSpec(AXIS), *[PartitionSpec()] * len(shared))
        spread = jax.shard_map(
            function, mesh=self.devices.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
        return spread(weights, batch, *shared)

    def _axes(self, tensors: Arrays) -> Axes:
        return {name: self.devices.split_axis(tensor.shape) for name, tensor in tensors.items()}

    def _sum(self, x: Tensor) -> Tensor:
        """The sum over the devices."""
        return lax.psum(x, AXIS) if self.devices.mesh else x


def run_network(
    graph: StepGraph,
    weights: Arrays,
    batch: Arrays,
    axes: Axes,
    scale: Tensor,
    packed: bool,
    draws: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What to differentiate, and the sum of a batch's weighted losses; both times `scale`. No draws: no dropout.

    They are the same; but for pairs the second are the sums of `weigh_pairs`.
    """
    config, dtype = graph.config, graph.dtype
    if not graph.dropout:
        draws = None
    of_output = output_matrix(config)
    names = dict.fromkeys(("wte", "wpe", "ln_f/g", "ln_f/b", of_output))  # every process gathers in this order
    ends = gather({name: weights[name] for name in names}, axes)
    x = make_drop(graph, None if draws is None else draws[-1])(
        embed(ends, batch["tokens"], batch["positions"], dtype)
    )  # [B, T, C]
    segments = batch["segments"]
    uses_flash = draws is None and can_use_flash(dtype, config.n_embd // config.n_head, segments.shape[1], packed)
    bias = None if uses_flash and not packed else attention_bias(segment_mask(segments), dtype)  # [B, 1, T, T]
    of_block = {name.removeprefix("h0/"): axis for name, axis in axes.items() if name.startswith("h0/")}
    block: Callable[..., Tensor] = jax.jit(functools.partial(run_block, graph, uses_flash, of_block))  # traced once
    if graph.remat:
        block = jax.checkpoint(block)
    elif graph.devices.splits_weights:
        block = jax.checkpoint(block, policy=jax.checkpoint_policies.save_anything_except_these_names(GATHERED))
    for i in range(config.n_layer):
        prefix = f"h{i}/"
        part = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        x = block(part, x, bias, None if draws is None else draws[i])
    z = normalize_picks((ends, x), batch["picks"])  # [K, C]
    matrix = ops.cast(ends[of_output], dtype)
    chunk = max(1, count_logits(graph.remat) // len(matrix))  # predicted tokens
    figures, token_weights = None, batch["weights"]
    if is_of_pairs(batch):
        figures, token_weights = weigh_pairs(log_probabilities(z, matrix, batch["targets"], chunk), batch)
    loss = cross_entropy(z, matrix, batch["targets"], token_weights, scale, chunk, of_output in graph.trained)
    return loss, loss if figures is None else figures * scale


def is_of_pairs(batch: Arrays) -> bool:
    """Whether the arrays are those of a `PairBatch`."""
    return "reference" in batch


def run_block(
    graph: StepGraph, uses_flash: bool, axes: Axes, weights: Arrays, x: Tensor, bias: Tensor | None, draw: Tensor | None
) -> Tensor:
    """One transformer block, [B, T, C] → [B, T, C], from the parts of `model.py`."""
    # Matrices are cast before they are gathered: half precision is half the traffic.
    cast = {name: ops.cast(w, graph.dtype) if is_cast(w) else w for name, w in weights.items()}
    weights, n_head, drop = gather(cast, axes), graph.config.n_head, make_drop(graph, draw)
    qkv = before_attention(weights, x)  # [B, T, 3·C]
    if uses_flash:
        attended = attend_by_flash(qkv, n_head, bias)
    else:
        query, keys, values = (split_heads(part, n_head) for part in ops.split(qkv, 3, axis=-1))
        attended = merge_heads(attend(query, keys, values, bias, drop=drop))
    return after_attention(weights, x, attended, custom_gradients.fused_by_xla(drop))


def is_cast(w: Tensor) -> bool:
    """Whether a tensor is cast to the dtype to compute in: a matrix, unless it is one of int8 with a scale."""
    return len(w.shape) == 2 and w.dtype != "int8"


def gather(weights: Arrays, axes: Axes) -> Arrays:
    """Whole tensors from each device's shares, where they are split."""
    whole = {
        name: checkpoint_name(lax.all_gather(weights[name], AXIS, axis=axis, tiled=True), GATHERED)
        for name, axis in axes.items()
        if axis is not None and name in weights
    }
    return weights | whole


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


def can_use_flash(dtype: str, depth: int, time: int, with_bias: bool) -> bool:
    """Whether cuDNN's flash attention runs here: on an Ampere GPU or newer, in half precision, for these shapes.

    Args:
        depth: channels per head. time: tokens per sequence, which must be even if there is a bias.
    """
    is_possible = dtype in ("bfloat16", "float16") and depth % 8 == 0 and depth <= 128 and not (with_bias and time % 2)
    return is_possible and jax.default_backend() == "gpu" and has_fast_bfloat16()


def make_drop(graph: StepGraph, draw: Tensor | None) -> SameShape:
    """Dropout as `GPT2.drop` does it, from a state of Keras's random generator, uint32 [2]. None: no dropout."""
    if draw is None:
        return identity
    keep, calls = 1 - graph.dropout, itertools.count()

    def drop(x: Tensor) -> Tensor:
        is_kept = jax.random.bernoulli(draw + jnp.array([0, next(calls)], "uint32"), keep, x.shape)
        return jnp.where(is_kept, x / keep, 0)

    return drop


def count_logits(remat: bool) -> int:
    """How many logits are alive at once."""
    if jax.default_backend() == "gpu":
        return GPU_LOGITS // 8 if remat else GPU_LOGITS
    return count_chunk_logits(remat)
