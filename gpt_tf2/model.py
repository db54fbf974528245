"""GPT-2 (Radford et al. 2019), as OpenAI's graph computes it, in keras.ops.

Letters in shapes: B batch, T new tokens, S cached tokens (slots), H heads, D size of a head, C = H·D channels,
V vocabulary.
"""

import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.errors import InputError

Tensor = Any  # of the running backend
Rows = tuple[Tensor, Tensor]  # keys and values, each [B, H, T, D]
Read = Callable[[str], np.ndarray]  # OpenAI's name of a tensor → its values
Drop = Callable[[Tensor], Tensor]


def keep(x: Tensor) -> Tensor:
    """Dropout where there is none."""
    return x


class GPT2(keras.Model):
    """Token ids → logits.

    Args:
        config: the hyper-parameters.
        dropout: the share dropped in training after the embeddings, in the attention and after both projections.
        read: gives a tensor's initial values by OpenAI's name (see `tensor_shapes`); each is asked for once, in the
            order of the network. Default: random, as in section 2.3 of the paper, alike on every backend.
        seed: of the random initial values.
        precision: float32, bfloat16 or float16, in which it computes; weights, layer norms and logits stay float32.
    """

    def __init__(
        self,
        config: GPT2Config,
        dropout: float = 0.0,
        read: Read | None = None,
        seed: int = 0,
        precision: str = "float32",
    ):
        policy = precision if precision == "float32" else f"mixed_{precision}"
        super().__init__(name="gpt2", dtype=policy)
        self.config = config
        self.dropout = dropout
        self.dropout_seed = keras.random.SeedGenerator(0)
        read = read or random_tensors(config, seed)
        self.wte = self.add_weight(shape=(config.n_vocab, config.n_embd), initializer=initial(read, "wte"), name="wte")
        self.wpe = self.add_weight(shape=(config.n_ctx, config.n_embd), initializer=initial(read, "wpe"), name="wpe")
        self.blocks = [Block(config, read, f"h{i}", policy) for i in range(config.n_layer)]
        self.ln_f = layer_norm(config, read, "ln_f", policy)
        self.built = True

    def call(self, tokens: Tensor, training: bool = False) -> Tensor:
        """Token ids [B, T] → float32 logits [B, T, V]. Raises InputError if T is above n_ctx."""
        time = ops.shape(tokens)[1]
        if isinstance(time, int) and time > self.config.n_ctx:
            raise InputError(f"{time} tokens, n_ctx is {self.config.n_ctx}: give fewer")
        positions = ops.arange(time, dtype="int32")[None]
        return self.logits(self.hidden(tokens, positions, causal_mask(time), training=training)[0])

    def hidden(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: list[Rows] | None = None, training: bool = False
    ) -> tuple[Tensor, list[Rows]]:
        """The network up to the last layer norm.

        Args:
            tokens: ids [B, T].
            positions: [B or 1, T], each below n_ctx.
            mask: bool, broadcastable to [B, H, T, S + T]; True where a new token may attend.
            cache: for each block the keys and values of S earlier tokens, [B, H, S, D]; none in training.

        Returns:
            The hidden states [B, T, C] and for each block the new tokens' keys and values.
        """
        x = ops.take(self.wte, tokens, axis=0) + ops.take(self.wpe, positions, axis=0)
        x = ops.cast(x, self.compute_dtype)
        drop = self.drop if training and self.dropout else keep
        x = drop(x)
        # Added once made, where choosing would cost another pass over the scores, forward and backward.
        bias = ops.cast(ops.where(mask, 0.0, -1e9), self.compute_dtype)
        rows = []
        for i, block in enumerate(self.blocks):
            x, new = block(x, bias, cache[i] if cache else None, drop=drop)
            rows.append(new)
        return self.ln_f(x), rows

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states [..., C] → float32 logits [..., V], by the transposed token embedding."""
        return ops.cast(ops.matmul(x, ops.transpose(ops.cast(self.wte, x.dtype))), "float32")

    def drop(self, x: Tensor) -> Tensor:
        return keras.random.dropout(x, self.dropout, seed=self.dropout_seed)

    def tensors(self) -> dict[str, keras.Variable]:
        """OpenAI's name → variable, in the order of `tensor_shapes`."""
        found = {"wte": self.wte, "wpe": self.wpe}
        for i, block in enumerate(self.blocks):
            found |= {f"h{i}/{name}": variable for name, variable in block.tensors().items()}
        return found | {"ln_f/g": self.ln_f.gamma, "ln_f/b": self.ln_f.beta}


class Block(layers.Layer):
    """One transformer block: pre-norm causal self-attention, then a pre-norm two-layer perceptron with GELU."""

    def __init__(self, config: GPT2Config, read: Read, name: str, policy: str):
        super().__init__(name=name, dtype=policy)
        n = config.n_embd
        self.n_head = config.n_head
        self.ln_1 = layer_norm(config, read, f"{name}/ln_1", policy)
        self.attn_c_attn = linear(n, 3 * n, read, f"{name}/attn/c_attn", policy)
        self.attn_c_proj = linear(n, n, read, f"{name}/attn/c_proj", policy)
        self.ln_2 = layer_norm(config, read, f"{name}/ln_2", policy)
        self.mlp_c_fc = linear(n, 4 * n, read, f"{name}/mlp/c_fc", policy)
        self.mlp_c_proj = linear(4 * n, n, read, f"{name}/mlp/c_proj", policy)
        self.built = True

    def call(self, x: Tensor, bias: Tensor, cache: Rows | None = None, drop: Drop = keep) -> tuple[Tensor, Rows]:
        """x [B, T, C] → the same shape, and the new tokens' keys and values.

        Args:
            bias: added to the scores, 0 where a token may attend and -1e9 elsewhere; else as the mask in `GPT2.hidden`.
            cache: as there.
        """
        query, keys, values = (self.split_heads(part) for part in ops.split(self.attn_c_attn(self.ln_1(x)), 3, axis=-1))
        attended = self.attend(query, (keys, values), bias, cache, drop)
        x = x + drop(self.attn_c_proj(self.merge_heads(attended)))
        x = x + drop(self.mlp_c_proj(ops.gelu(self.mlp_c_fc(self.ln_2(x)), approximate=True)))
        return x, (keys, values)

    def attend(self, query: Tensor, new: Rows, bias: Tensor, cache: Rows | None, drop: Drop) -> Tensor:
        """Scaled dot-product attention over the cached, then the new tokens → [B, H, T, D].

        Cached and new scores are joined, never the keys and values: a step copies nothing of the cache.
        """
        sources = [cache, new] if cache else [new]
        query = query * query.shape[-1] ** -0.5
        scores = [ops.matmul(query, ops.transpose(keys, (0, 1, 3, 2))) for keys, _ in sources]
        joined = ops.concatenate(scores, axis=-1) if cache else scores[0]
        weights = drop(ops.softmax(joined + bias))
        if not cache:
            return ops.matmul(weights, new[1])
        slots = ops.shape(cache[0])[2]
        return ops.matmul(weights[..., :slots], cache[1]) + ops.matmul(weights[..., slots:], new[1])

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, T, C] → [B, H, T, D]."""
        batch, time = ops.shape(x)[:2]
        return ops.transpose(ops.reshape(x, (batch, time, self.n_head, x.shape[-1] // self.n_head)), (0, 2, 1, 3))

    def merge_heads(self, x: Tensor) -> Tensor:
        """[B, H, T, D] → [B, T, C]."""
        batch, _, time = ops.shape(x)[:3]
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, time, x.shape[1] * x.shape[3]))

    def tensors(self) -> dict[str, keras.Variable]:
        """OpenAI's name within the block → variable."""
        found: dict[str, keras.Variable] = {"ln_1/g": self.ln_1.gamma, "ln_1/b": self.ln_1.beta}
        for name, layer in (("attn/c_attn", self.attn_c_attn), ("attn/c_proj", self.attn_c_proj)):
            found |= {f"{name}/w": layer.kernel, f"{name}/b": layer.bias}
        found |= {"ln_2/g": self.ln_2.gamma, "ln_2/b": self.ln_2.beta}
        for name, layer in (("mlp/c_fc", self.mlp_c_fc), ("mlp/c_proj", self.mlp_c_proj)):
            found |= {f"{name}/w": layer.kernel, f"{name}/b": layer.bias}
        return found


def causal_mask(time: Tensor | int) -> Tensor:
    """[1, 1, T, T], True where the key is not later than the query."""
    index = ops.arange(time)
    return (index[:, None] >= index[None, :])[None, None]


def layer_norm(config: GPT2Config, read: Read, name: str, policy: str) -> layers.LayerNormalization:
    layer = layers.LayerNormalization(
        epsilon=1e-5,
        gamma_initializer=initial(read, f"{name}/g"),
        beta_initializer=initial(read, f"{name}/b"),
        dtype=policy,
    )
    layer.build((None, None, config.n_embd))
    return layer


def linear(inputs: int, outputs: int, read: Read, name: str, policy: str) -> layers.Dense:
    layer = layers.Dense(
        outputs,
        kernel_initializer=initial(read, f"{name}/w"),
        bias_initializer=initial(read, f"{name}/b"),
        dtype=policy,
    )
    layer.build((None, None, inputs))
    return layer


def initial(read: Read, name: str) -> Callable[..., Tensor]:
    """A Keras initializer that reads the tensor when its variable is made, so that no second copy of a model exists."""
    return lambda shape, dtype=None: ops.convert_to_tensor(read(name), dtype=dtype)


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
