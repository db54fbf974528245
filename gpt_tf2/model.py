"""GPT-2 (Radford et al. 2019), as OpenAI's graph computes it, in keras.ops.

Letters in shapes: B batch, T new tokens, S cached tokens (slots), H heads, D size of a head, C = H·D channels,
V vocabulary.
"""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError

Tensor = Any  # of the running backend
Weights = Mapping[str, Tensor]  # by OpenAI's names within a block, as `attn/c_attn/w`
Rows = tuple[Tensor, Tensor]  # keys and values, each [B, H, T, D]
Cache = tuple[
    Tensor, Tensor, Tensor
]  # keys and values of earlier tokens, [B, H, S, D], and what is added to the scores
Read = Callable[[str], np.ndarray]  # OpenAI's name of a tensor → its values
Function = Callable[[Tensor], Tensor]  # of the same shape


def keep(x: Tensor) -> Tensor:
    """Dropout where there is none."""
    return x


def gelu(x: Tensor) -> Tensor:
    """GELU in its approximation by tanh, as OpenAI has it (Hendrycks and Gimpel 2016, section 2)."""
    return ops.gelu(x, approximate=True)


class GPT2(keras.Model):
    """Token ids → logits.

    Args:
        config: the hyper-parameters.
        dropout: the share dropped in training after the embeddings, in the attention and after both projections.
        read: gives a tensor's initial values by OpenAI's name (see `tensor_shapes`); each is asked for once, in the
            order of the network. Default: random, as in section 2.3 of the paper, alike on every backend.
        seed: of the random initial values.
        precision: float32, bfloat16 or float16, in which it computes; layer norms and logits stay float32.
        held: in what the matrices are held. Vectors are held in float32.
    """

    def __init__(
        self,
        config: GPT2Config,
        dropout: float = 0.0,
        read: Read | None = None,
        seed: int = 0,
        precision: str = "float32",
        held: str = "float32",
    ):
        super().__init__(name="gpt2", dtype=precision if precision == "float32" else f"mixed_{precision}")
        self.config = config
        self.dropout = dropout
        self.dropout_seed = keras.random.SeedGenerator(0)
        self.blocks: list[dict[str, keras.Variable]] = [{} for _ in range(config.n_layer)]
        self.ends: dict[str, keras.Variable] = {}  # all that is in no block
        read = read or random_tensors(config, seed)
        for name, shape in tensor_shapes(config).items():
            self.add(name, shape, functools.partial(read, name), held if len(shape) == 2 else "float32")
        self.built = True

    def add(self, name: str, shape: tuple[int, ...], values: Callable[[], np.ndarray], dtype: str) -> None:
        """Adds a tensor under OpenAI's name, or one like it.

        values: gives them when the variable is made, so that no second copy of a model exists.
        """
        variable = self.add_weight(
            shape=shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values(), dtype=dtype),
            dtype=dtype,
            autocast=False,
            name=name.replace("/", "_"),
        )
        block, _, within = name.partition("/")
        if block.startswith("h"):
            self.blocks[int(block[1:])][within] = variable
        else:
            self.ends[name] = variable

    def call(self, tokens: Tensor, training: bool = False) -> Tensor:
        """Token ids [B, T] → float32 logits [B, T, V]. Raises InputError if T is above n_ctx."""
        time = ops.shape(tokens)[1]
        if isinstance(time, int) and time > self.config.n_ctx:
            raise InputError(f"{time} tokens, n_ctx is {self.config.n_ctx}: give fewer")
        positions = ops.arange(time, dtype="int32")[None]
        return self.logits(self.hidden(tokens, positions, causal_mask(time), training=training)[0])

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: list[Rows] | None = None,
        filled: Tensor | None = None,
        training: bool = False,
    ) -> tuple[Tensor, list[Rows]]:
        """The network up to the last layer norm.

        Args:
            tokens: ids [B, T].
            positions: [B or 1, T], each below n_ctx.
            mask: bool, broadcastable to [B, H, T, T]; True where a new token may attend to a new one.
            cache: for each block the keys and values of S earlier tokens, [B, H, S, D]; none in training.
            filled: bool, broadcastable to [B, H, T, S]; True where a new token may attend to a cached one.

        Returns:
            The hidden states [B, T, C] and for each block the new tokens' keys and values.
        """
        drop = self.drop if training and self.dropout else keep
        x = drop(embedded(self.ends, tokens, positions, self.compute_dtype))
        bias = added(mask, self.compute_dtype)
        slots = added(filled, self.compute_dtype) if cache else None
        rows = []
        for i, weights in enumerate(self.blocks):
            how = functools.partial(attend, bias=bias, cache=(*cache[i], slots) if cache else None, drop=drop)
            x, new = block(weights, x, self.config.n_head, how, drop)
            rows.append(new)
        return layer_norm(x, self.ends, "ln_f"), rows

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states [..., C] → float32 logits [..., V], by the transposed token embedding."""
        return ops.cast(ops.matmul(x, ops.transpose(ops.cast(self.ends["wte"], x.dtype))), "float32")

    def drop(self, x: Tensor) -> Tensor:
        return keras.random.dropout(x, self.dropout, seed=self.dropout_seed)

    def tensors(self) -> dict[str, keras.Variable]:
        """OpenAI's name → variable, in the order of `tensor_shapes`."""
        found = {f"h{i}/{name}": variable for i, part in enumerate(self.blocks) for name, variable in part.items()}
        first = {name: self.ends[name] for name in ("wte", "wpe")}
        return first | found | {name: self.ends[name] for name in ("ln_f/g", "ln_f/b")}


def embedded(weights: Weights, tokens: Tensor, positions: Tensor, dtype: str) -> Tensor:
    """Ids [B, T], positions [B or 1, T] → the blocks' first input [B, T, C]."""
    by_token, by_position = ops.take(weights["wte"], tokens, axis=0), ops.take(weights["wpe"], positions, axis=0)
    return ops.cast(ops.cast(by_token, "float32") + ops.cast(by_position, "float32"), dtype)


def added(mask: Tensor, dtype: str) -> Tensor:
    """What is added to the scores: 0 where a token may attend, -1e9 elsewhere.

    Choosing by the mask instead would cost another pass over the scores, forward and backward.
    """
    return ops.cast(ops.where(mask, 0.0, -1e9), dtype)


def block(
    weights: Weights,
    x: Tensor,
    n_head: int,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    drop: Function = keep,
    activation: Function = gelu,
) -> tuple[Tensor, Rows]:
    """One transformer block: pre-norm causal self-attention, then a pre-norm two-layer perceptron with GELU.

    x [B, T, C] → the same shape, and the new tokens' keys and values.

    Args:
        attend: queries, keys and values of the new tokens, [B, H, T, D] each → of that shape.
    """
    query, keys, values = (split_heads(part, n_head) for part in ops.split(before_attention(weights, x), 3, axis=-1))
    return after_attention(weights, x, merge_heads(attend(query, keys, values)), drop, activation), (keys, values)


def before_attention(weights: Weights, x: Tensor) -> Tensor:
    """A block's first part: x [..., C] → queries, keys and values [..., 3·C]."""
    return linear(layer_norm(x, weights, "ln_1"), weights, "attn/c_attn")


def after_attention(
    weights: Weights, x: Tensor, attended: Tensor, drop: Function = keep, activation: Function = gelu
) -> Tensor:
    """A block's second part: its x and what the attention gave, [..., C] each → the next block's x."""
    x = x + drop(linear(attended, weights, "attn/c_proj"))
    inner = activation(linear(layer_norm(x, weights, "ln_2"), weights, "mlp/c_fc"))
    return x + drop(linear(inner, weights, "mlp/c_proj"))


def attend(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, cache: Cache | None = None, drop: Function = keep
) -> Tensor:
    """Scaled dot-product attention over the new tokens and cached ones → [B, H, T, D].

    The two parts of the softmax have their largest score and their sum in common; nothing is joined, so that a step
    copies nothing of the cache. The cache has no dropout.

    Args:
        bias: of `added`, broadcastable to [B, H, T, T].
    """
    query = query * query.shape[-1] ** -0.5
    scores = ops.matmul(query, ops.transpose(keys, (0, 1, 3, 2))) + bias
    if cache is None:
        return ops.matmul(drop(ops.softmax(scores)), values)
    earlier_keys, earlier_values, earlier_bias = cache
    earlier = ops.matmul(query, ops.transpose(earlier_keys, (0, 1, 3, 2))) + earlier_bias
    top = ops.maximum(ops.max(scores, axis=-1, keepdims=True), ops.max(earlier, axis=-1, keepdims=True))
    scores, earlier = ops.exp(scores - top), ops.exp(earlier - top)
    total = ops.sum(scores, axis=-1, keepdims=True) + ops.sum(earlier, axis=-1, keepdims=True)
    return (ops.matmul(scores, values) + ops.matmul(earlier, earlier_values)) / total


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    """[..., inputs] → [..., outputs], with LoRA's low-rank addition if there is one (Hu et al. 2021, section 4.1)."""
    w, b = (ops.cast(weights[f"{name}/{part}"], x.dtype) for part in "wb")
    y = ops.matmul(x, w) + b
    if f"{name}/lora_a" not in weights:
        return y
    down, up = (ops.cast(weights[f"{name}/lora_{part}"], x.dtype) for part in "ab")
    return y + ops.matmul(ops.matmul(x, down), up)


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Over the channels, in float32 (Ba et al. 2016)."""
    return ops.layer_normalization(x, weights[f"{name}/g"], weights[f"{name}/b"], epsilon=1e-5)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """[B, T, C] → [B, H, T, D]."""
    shape = (*ops.shape(x)[:2], n_head, x.shape[-1] // n_head)
    return ops.transpose(ops.reshape(x, shape), (0, 2, 1, 3))


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D] → [B, T, C]."""
    rows, heads, time, depth = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (rows, time, heads * depth))


def causal_mask(time: Tensor | int) -> Tensor:
    """[1, 1, T, T], True where the key is not later than the query."""
    index = ops.arange(time)
    return (index[:, None] >= index[None, :])[None, None]


def random_tensors(config: GPT2Config, seed: int, std: float = 0.02) -> Read:
    """Initial values of section 2.3: normal, projections into the residual stream scaled by 1/√(2·n_layer).

    std: of the matrices; GPT-2's own suits its widths, a narrow network learns faster from larger values.
    """
    shapes = tensor_shapes(config)

    def read(name: str) -> np.ndarray:
        shape = shapes[name]
        if name.endswith("/g"):
            return np.ones(shape, "float32")
        if name.endswith("/b"):
            return np.zeros(shape, "float32")
        scale = std / 2 if name == "wpe" else std
        if name.endswith("c_proj/w"):
            scale /= (2 * config.n_layer) ** 0.5
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return generator.standard_normal(shape, "float32") * np.float32(scale)

    return read
