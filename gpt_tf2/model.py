"""GPT-2 (Radford et al. 2019) in keras.ops, numerically the graph that OpenAI published.

Read from top to bottom: layers, attention, one block, the model, and last the random initial weights.

Letters in shapes:
    B  sequences in the batch          H  attention heads
    T  new tokens                      D  channels per head
    S  cached positions                C  channels, H · D
    V  tokens in the vocabulary
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from gpt_tf2.backend.compiling import copy_array, fuse
from gpt_tf2.backend.int8 import quantize
from gpt_tf2.backend.starting import compute_exactly
from gpt_tf2.config import GPT2Config, output_matrix, scale_shapes, tensor_shapes
from gpt_tf2.errors import InputError

Tensor = Any  # an array of the running backend
Weights = Mapping[str, Tensor]  # a part's tensors by OpenAI's names within the part, such as `attn/c_attn/w`
KeysValues = tuple[Tensor, Tensor]  # one block's keys and values, each [B, H, T, D]
CachedKeysValues = tuple[Tensor, Tensor, Tensor]  # keys and values, each [B, H, S, D], and the bias of their scores
ReadTensor = Callable[[str], np.ndarray]  # OpenAI's name of a tensor → its values
Place = Callable[[np.ndarray, str], Tensor]
Inputs = Tensor | Mapping[str, Tensor]  # of the network: ids [B, T], or the arrays of packed sequences
SameShape = Callable[[Tensor], Tensor]  # a function that keeps the shape of its input


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Normalize x [..., C] over its channels, in float32 (Ba et al. 2016)."""
    return ops.layer_normalization(x, weights[f"{name}/g"], weights[f"{name}/b"], epsilon=1e-5)


def project(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Project x [..., inputs] to [..., outputs] without the bias, plus LoRA's update if any (Hu et al. 2021, 4.1)."""
    w, scale = weights[f"{name}/w"], weights.get(f"{name}/w_scale")
    y = ops.matmul(x, ops.cast(w, x.dtype)) if scale is None else multiply_by_int8(x, w, scale)
    if f"{name}/lora_a" not in weights:
        return y
    down, up = weights[f"{name}/lora_a"], weights[f"{name}/lora_b"]
    if f"{name}/lora_scale" in weights:
        down = ops.multiply(down, weights[f"{name}/lora_scale"])  # before the cast, which would round the scale
    down, up = ops.cast(down, x.dtype), ops.cast(up, x.dtype)
    return y + ops.matmul(ops.matmul(x, down), up)


def add_bias(product: Tensor, bias: Tensor) -> Tensor:
    """Add a bias [outputs] to a product [..., outputs]."""
    return product + ops.cast(bias, product.dtype)


@ops.custom_gradient
def multiply_by_int8(x: Tensor, w: Tensor, scale: Tensor) -> tuple[Tensor, Any]:
    """Multiply x [..., inputs] by a matrix of `quantize`, which is frozen. The gradient dequantizes it again."""
    y = ops.matmul(x, dequantize(w, scale, x))
    return y, lambda dy: (ops.matmul(dy, ops.transpose(dequantize(w, scale, dy))), None, None)


def dequantize(w: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """Undo `quantize` in the dtype of x, and not before x is known.

    Without that dependency XLA dequantizes a matrix once for both passes and ahead of loops, and keeps the result.
    """
    zero = ops.cast(0 * ops.reshape(x, (-1,))[:1], "int8")
    return scale_columns(w, scale, zero, x.dtype)


@fuse
def scale_columns(w: Tensor, scale: Tensor, zero: Tensor, dtype: str) -> Tensor:
    return ops.cast(ops.cast(w + zero, "float32") * scale, dtype)


def gelu(x: Tensor) -> Tensor:
    """GELU in the tanh approximation that OpenAI uses (Hendrycks and Gimpel 2016, section 2)."""
    return ops.gelu(x, approximate=True)


def add_and_gelu(product: Tensor, bias: Tensor) -> Tensor:
    """Add a bias, then apply GELU."""
    return gelu(add_bias(product, bias))


def identity(x: Tensor) -> Tensor:
    """Return x: stands in for dropout where nothing is dropped."""
    return x


def add_to_residual(x: Tensor, product: Tensor, bias: Tensor, drop: SameShape = identity) -> Tensor:
    """Add a product with its bias, after dropout, to the residual stream x."""
    return x + drop(add_bias(product, bias))


def embed(weights: Weights, tokens: Tensor, positions: Tensor, dtype: str) -> Tensor:
    """Add token and position embeddings: ids [B, T] and positions [B or 1, T] → [B, T, C]."""
    by_token = ops.take(weights["wte"], tokens, axis=0)  # [B, T, C]
    by_position = ops.take(weights["wpe"], positions, axis=0)  # [B or 1, T, C]
    return ops.cast(ops.cast(by_token, "float32") + ops.cast(by_position, "float32"), dtype)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """[B, T, C] → [B, H, T, D]."""
    shape = (*ops.shape(x)[:2], n_head, x.shape[-1] // n_head)
    return ops.transpose(ops.reshape(x, shape), (0, 2, 1, 3))


def split_qkv(product: Tensor, bias: Tensor, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """Add a bias, then split queries, keys and values: [B, T, 3·C] → [B, H, T, D] each."""
    query, keys, values = (split_heads(part, n_head) for part in ops.split(add_bias(product, bias), 3, axis=-1))
    return query, keys, values


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D] → [B, T, C]."""
    batch, heads, time, depth = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, time, heads * depth))


def causal_mask(time: Tensor | int) -> Tensor:
    """Return a bool mask [1, 1, T, T], True where the key is not later than the query."""
    index = ops.arange(time)
    return (index[:, None] >= index[None, :])[None, None]


def segment_mask(segments: Tensor) -> Tensor:
    """Return a bool mask [B, 1, T, T] of segments [B, T]: causal, and True only within one segment."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return ops.logical_and(causal_mask(ops.shape(segments)[1]), same)


def attention_bias(mask: Tensor, dtype: str) -> Tensor:
    """Turn a bool mask into a bias of the attention scores: 0 where it is True, -1e9 elsewhere.

    Adding costs one pass over the scores less than selecting by the mask, in both directions.
    """
    return ops.cast(ops.where(mask, 0.0, -1e9), dtype)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    cache: CachedKeysValues | None = None,
    drop: SameShape = identity,
) -> Tensor:
    """Scaled dot-product attention over the new tokens and the cached positions.

    Scores of new and cached keys share one softmax but are never concatenated, so that a decoding step copies nothing
    of the cache.

    Args:
        query, keys, values: of the new tokens, each [B, H, T, D].
        bias: see `attention_bias`; broadcastable to [B, H, T, T].
        cache: keys, values and bias of the cached positions; not used in training.
        drop: dropout of the attention weights, for calls without a cache.

    Returns:
        The attended values [B, H, T, D].
    """
    query = query * query.shape[-1] ** -0.5
    scores = ops.matmul(query, ops.transpose(keys, (0, 1, 3, 2))) + bias  # [B, H, T, T]
    if cache is None:
        return ops.matmul(drop(ops.softmax(scores)), values)  # [B, H, T, D]
    cached_keys, cached_values, cached_bias = cache
    cached = ops.matmul(query, ops.transpose(cached_keys, (0, 1, 3, 2))) + cached_bias  # [B, H, T, S]
    top = ops.maximum(ops.max(scores, axis=-1, keepdims=True), ops.max(cached, axis=-1, keepdims=True))  # [B, H, T, 1]
    scores, cached = ops.exp(scores - top), ops.exp(cached - top)
    total = ops.sum(scores, axis=-1, keepdims=True) + ops.sum(cached, axis=-1, keepdims=True)  # [B, H, T, 1]
    return (ops.matmul(scores, values) + ops.matmul(cached, cached_values)) / total  # [B, H, T, D]


@dataclasses.dataclass(frozen=True)
class BlockFunctions:
    """What a block computes between its matrix products; training has functions with gradients of their own.

    The products [..., outputs] come without their bias [outputs].

    Attributes:
        norm: `norm(x, weights, name)`; see `layer_norm`.
        split: `split(product, bias, n_head)`; see `split_qkv`.
        activate: `activate(product, bias)`; see `add_and_gelu`.
        add: `add(x, product, bias)`; see `add_to_residual`.
    """

    norm: Callable[[Tensor, Weights, str], Tensor] = layer_norm
    split: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]] = split_qkv
    activate: Callable[[Tensor, Tensor], Tensor] = add_and_gelu
    add: Callable[[Tensor, Tensor, Tensor], Tensor] = add_to_residual


PLAIN = BlockFunctions()


def project_normal(weights: Weights, x: Tensor, functions: BlockFunctions = PLAIN) -> Tensor:
    """The part of a block before its attention, without the bias: x [..., C] → [..., 3·C]."""
    return project(functions.norm(x, weights, "ln_1"), weights, "attn/c_attn")


def before_attention(weights: Weights, x: Tensor) -> Tensor:
    """The part of a block before its attention: x [..., C] → queries, keys and values [..., 3·C]."""
    return add_bias(project_normal(weights, x), weights["attn/c_attn/b"])


def after_attention(weights: Weights, x: Tensor, attended: Tensor, functions: BlockFunctions = PLAIN) -> Tensor:
    """The part of a block after its attention: the block's x and the attended values, each [..., C] → [..., C]."""
    x = functions.add(x, project(attended, weights, "attn/c_proj"), weights["attn/c_proj/b"])
    product = project(functions.norm(x, weights, "ln_2"), weights, "mlp/c_fc")
    inner = functions.activate(product, weights["mlp/c_fc/b"])  # [..., 4·C]
    return functions.add(x, project(inner, weights, "mlp/c_proj"), weights["mlp/c_proj/b"])


def transformer_block(
    weights: Weights,
    x: Tensor,
    n_head: int,
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],
    functions: BlockFunctions = PLAIN,
) -> tuple[Tensor, KeysValues]:
    """One transformer block: pre-norm self-attention, then a pre-norm two-layer perceptron.

    Args:
        weights: the block's tensors.
        x: [B, T, C].
        attention: queries, keys and values of the new tokens, each [B, H, T, D] → attended values of that shape.

    Returns:
        The next block's x [B, T, C], and the keys and values of the new tokens.
    """
    product = project_normal(weights, x, functions)  # [B, T, 3·C]
    query, keys, values = functions.split(product, weights["attn/c_attn/b"], n_head)  # [B, H, T, D] each
    attended = merge_heads(attention(query, keys, values))  # [B, T, C]
    return after_attention(weights, x, attended, functions), (keys, values)


@keras.saving.register_keras_serializable(package="gpt_tf2")
class GPT2(keras.Model):
    """The network, a Keras model: token ids → logits.

    Args:
        config: the hyper-parameters.
        dropout: share dropped in training: after the embeddings, in the attention and after both projections.
        read: returns a tensor's initial values by OpenAI's name (see `tensor_shapes`). Each is read once, in the
            network's order. By default they are random; see `random_tensors`.
        seed: seed of the random initial values.
        dtype: Keras's policy, by name or as a `keras.DTypePolicy`; by default `keras.config.dtype_policy()`. With
            `mixed_bfloat16` the network computes in bfloat16 and stores float32, with `bfloat16` it also stores
            matrices in bfloat16. Vectors are stored in float32; layer norms and logits are float32, too.
        int8: whether the matrices of the blocks are held in int8, frozen; see `quantize`.
        place: puts a variable's initial values on devices, in a dtype. Default: on the first.
        name, trainable: those of every Keras layer.

    Example:
        >>> model = GPT2(GPT2Config(n_vocab=300, n_ctx=32, n_embd=24, n_head=3, n_layer=2))
        >>> model(np.zeros((1, 5), "int32")).shape
        (1, 5, 300)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss)
        >>> history = model.fit(ids[:, :-1], ids[:, 1:], epochs=3)  # ids: int [N, T + 1] # doctest: +SKIP
    """

    def __init__(
        self,
        config: GPT2Config,
        *,
        dropout: float = 0.0,
        read: ReadTensor | None = None,
        seed: int = 0,
        dtype: str | keras.DTypePolicy | None = None,
        int8: bool = False,
        place: Place | None = None,
        name: str = "gpt2",
        trainable: bool = True,
    ):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if self.compute_dtype == "float32":
            compute_exactly()
        self.config = config
        self.dropout = dropout
        self.int8 = int8
        self._place = place or copy_array
        self.decoder: Any = None  # of `generate`, from its first call on
        self.dropout_seed = keras.random.SeedGenerator(0)
        self.blocks: list[dict[str, keras.Variable]] = [{} for _ in range(config.n_layer)]
        self.ends: dict[str, keras.Variable] = {}  # the tensors outside the blocks, in their order
        read = read or random_tensors(config, seed)
        for tensor, shape in tensor_shapes(config).items():
            if int8 and tensor.endswith("/w"):
                self.add_quantized(tensor, read(tensor))
                continue
            stored = self.variable_dtype if len(shape) == 2 else "float32"
            self.add(tensor, shape, functools.partial(read, tensor), stored)
        self.built = True

    def call(self, inputs: Inputs, training: bool = False) -> Tensor:
        """Compute float32 logits [B, T, V] of token ids; see `hidden_states`."""
        return self.logits(self.hidden_states(inputs, training))

    def hidden_states(self, inputs: Inputs, training: bool = False) -> Tensor:
        """Compute the hidden states [B, T, C] after the last layer norm: what another head than `logits` starts from.

        Args:
            inputs: ids [B, T]; or, for packed sequences, a dict of `tokens`, `positions` and `segments`, each [B, T],
                where a token sees only the earlier ones of its segment (see `Batch`).

        Raises InputError if T is above n_ctx.
        """
        tokens = inputs["tokens"] if isinstance(inputs, Mapping) else inputs
        time = ops.shape(tokens)[1]
        if isinstance(time, int) and time > self.config.n_ctx:
            raise InputError(f"{time} tokens, but n_ctx is {self.config.n_ctx}: shorten the sequences")
        if isinstance(inputs, Mapping):
            positions, mask = inputs["positions"], segment_mask(inputs["segments"])
        else:
            positions, mask = ops.arange(time, dtype="int32")[None], causal_mask(time)  # [1, T], [1, 1, T, T]
        return self.hidden(tokens, positions, mask, training=training)[0]

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: list[KeysValues] | None = None,
        cache_mask: Tensor | None = None,
        training: bool = False,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Compute the hidden states after the last layer norm.

        Args:
            tokens: ids [B, T].
            positions: [B or 1, T], each below n_ctx.
            mask: bool, broadcastable to [B, H, T, T]; True where a new token may attend to a new token.
            cache: each block's keys and values of the cached positions, [B, H, S, D]; not used in training.
            cache_mask: bool, broadcastable to [B, H, T, S]; True where a new token may attend to a cached position.

        Returns:
            The hidden states [B, T, C], and each block's keys and values of the new tokens.
        """
        drop = self.drop if training and self.dropout else identity
        functions = BlockFunctions(add=functools.partial(add_to_residual, drop=drop))
        x = drop(embed(self.ends, tokens, positions, self.compute_dtype))  # [B, T, C]
        bias = attention_bias(mask, self.compute_dtype)
        cache_bias = attention_bias(cache_mask, self.compute_dtype) if cache else None
        new_keys_values = []
        for i, weights in enumerate(self.blocks):
            cached = (*cache[i], cache_bias) if cache else None
            attention = functools.partial(attend, bias=bias, cache=cached, drop=drop)
            x, keys_values = transformer_block(weights, x, self.config.n_head, attention, functions)
            new_keys_values.append(keys_values)
        return layer_norm(x, self.ends, "ln_f"), new_keys_values

    def logits(self, x: Tensor) -> Tensor:
        """Compute float32 logits [..., V] of hidden states [..., C], by the transposed output matrix."""
        matrix = self.ends[output_matrix(self.config)]
        return ops.cast(ops.matmul(x, ops.transpose(ops.cast(matrix, x.dtype))), "float32")

    def drop(self, x: Tensor) -> Tensor:
        """Apply dropout."""
        return keras.random.dropout(x, self.dropout, seed=self.dropout_seed)

    def tensors(self) -> dict[str, keras.Variable]:
        """Return every variable by OpenAI's name, in the order of `tensor_shapes`."""
        blocks = {f"h{i}/{name}": variable for i, block in enumerate(self.blocks) for name, variable in block.items()}
        ends = dict(self.ends)
        return {name: ends.pop(name) for name in ("wte", "wpe")} | blocks | ends

    def add_quantized(self, name: str, values: np.ndarray) -> None:
        """Add a matrix in int8, and its scale under its name with `_scale`; neither can be trained."""
        rounded, scale = quantize(values)
        self.add(name, rounded.shape, lambda: rounded, "int8", trainable=False)
        self.add(f"{name}_scale", scale.shape, lambda: scale, "float32", trainable=False)

    def add(
        self,
        name: str,
        shape: tuple[int, ...],
        values: Callable[[], np.ndarray],
        dtype: str,
        trainable: bool = True,
    ) -> None:
        """Add a variable under OpenAI's name, or a name of that form.

        values: returns the initial values, when the variable is made: so there is never a second copy of the model.
        """
        self.decoder = None  # its compiled graphs know the former variables only
        variable = self.add_weight(
            shape=shape,
            initializer=lambda shape, dtype: self._place(values(), dtype),
            dtype=dtype,
            trainable=trainable,
            autocast=False,
            name=name.replace("/", "_"),
        )
        block, _, name_in_block = name.partition("/")
        if block.startswith("h"):
            self.blocks[int(block[1:])][name_in_block] = variable
        else:
            self.ends[name] = variable

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` builds an equal network from, as plain JSON. Weights are not part of it."""
        own_names = tensor_shapes(self.config) | scale_shapes(self.config)
        added = {name: list(v.shape) for name, v in self.tensors().items() if name not in own_names}
        own = {"config": dataclasses.asdict(self.config), "dropout": self.dropout, "adapters": added}
        own |= {"int8": True} if self.int8 else {}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> "GPT2":
        """Build a network from the result of `get_config`, with random weights."""
        values = dict(config)
        adapters = values.pop("adapters")
        values["config"] = GPT2Config(**values["config"])
        values["dtype"] = keras.dtype_policies.deserialize(values["dtype"])
        network = cls(**values)
        for name, shape in adapters.items():
            network.add(name, tuple(shape), functools.partial(np.zeros, shape, "float32"), "float32")
        return network

    @classmethod
    def from_preset(cls, preset: str | Path, **options: Any) -> "GPT2":
        """Build a network with the weights of a checkpoint.

        Args:
            preset: a released size, such as 124M, a name in `models/`, a path (see `load_model`), or `hf://owner/name`.
            options: `dropout`, `dtype` and what a subclass adds.

        Raises InputError if there is no such model, or if a file is damaged.

        Example:
            >>> model = GPT2.from_preset("124M", dropout=0.1, dtype="mixed_bfloat16")  # doctest: +SKIP
        """
        from gpt_tf2.commands.presets import open_preset

        config, checkpoint = open_preset(preset)
        return cls(config, read=checkpoint.read, **options)

    def generate(
        self,
        ids: np.ndarray | Sequence[Sequence[int]],
        max_new_tokens: int = 100,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        end: int | None = None,
    ) -> Any:
        """Continue sequences of token ids.

        A network knows no vocabulary: an id without a token, as padded models have, may be drawn. `LanguageModel` does
        not draw it.

        Args:
            ids: [B, T], or a list of sequences of different lengths.
            max_new_tokens: of each sequence; it also ends at `end`, and where the context does.
            temperature, top_k, top_p, min_p, repetition_penalty: the sampling rules; see `make_sampler`. Temperature 0
                takes the most likely token.
            seed: of the draws; by default they differ from call to call.
            end: the id that ends a sequence. Default: the last one, the end of text of a GPT-2 without other rows.

        Returns:
            The sequences with their prompts and without `end`. For an array, an array int32 [B, longest], filled up
            with `end`; for a list, a list of int32 arrays.

        Raises InputError if a setting is out of its range, or if a prompt is empty, leaves no room in the context, or
        holds an id outside the vocabulary.

        Example:
            >>> model.generate(np.array([[464, 17427]]), max_new_tokens=20, top_p=0.9, seed=1)  # doctest: +SKIP
        """
        from gpt_tf2.generation.sequences import continue_sequences

        rules = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        rules["repetition_penalty"] = repetition_penalty
        end = self.config.n_vocab - 1 if end is None else end
        return continue_sequences(self, ids, max_new_tokens, rules, end, seed)


def random_tensors(config: GPT2Config, seed: int, std: float = 0.02) -> ReadTensor:
    """Return a reader of random initial weights, equal on every backend (Radford et al. 2019, section 2.3).

    Matrices are normal; those that project into the residual stream are scaled by 1/√(2·n_layer).

    std: standard deviation of the matrices. GPT-2's own suits its widths; a narrow network learns faster from a larger
        one.
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
