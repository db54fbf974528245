"""GPT-2 in NumPy: what exports and int8 are compared with. It takes little memory, and starts no backend."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.config import GPT2Config, output_matrix, tensor_shapes

PART = 128  # tokens whose logits are in memory together


class Reference:
    """The network of `model.py` in float32, for one sequence.

    Letters in shapes are those of `model.py`.

    Args:
        config: the network's hyper-parameters.
        read: returns a tensor by OpenAI's name, each time that it is needed.

    Example:
        >>> reference = hold_reference(open_model("models/124M"))  # doctest: +SKIP
        >>> next(reference.extend(reference.begin(), np.array([464, 17855]))).shape  # doctest: +SKIP
        (2, 50257)
    """

    def __init__(self, config: GPT2Config, read: Callable[[str], np.ndarray]):
        self.config, self._read = config, read

    def begin(self) -> list[np.ndarray]:
        """A cache without tokens: keys and values of each block, [2, H, 0, D]."""
        config = self.config
        return [np.zeros((2, config.n_head, 0, config.n_embd // config.n_head), "float32")] * config.n_layer

    def extend(self, cache: list[np.ndarray], ids: np.ndarray) -> Iterator[np.ndarray]:
        """Adds new tokens, int [T], to a cache.

        Yields the logits of the token after each of them: [t, V] of the first PART, of the next and so on.
        """
        begin, end = cache[0].shape[2], cache[0].shape[2] + len(ids)
        x = self._read("wte")[ids] + self._read("wpe")[begin:end]  # [T, C]
        bias = np.triu(np.full((len(ids), end), -np.inf, "float32"), begin + 1)  # [T, S]: no token sees later ones
        for block in range(self.config.n_layer):
            x += self._attend(block, layer_norm(x, *self._pair(f"h{block}/ln_1", "g")), cache, bias)
            hidden = gelu(self._multiply(layer_norm(x, *self._pair(f"h{block}/ln_2", "g")), f"h{block}/mlp/c_fc"))
            x += self._multiply(hidden, f"h{block}/mlp/c_proj")
        x = layer_norm(x, *self._pair("ln_f", "g"))
        head = self._read(output_matrix(self.config)).T
        for start in range(0, len(ids), PART):
            yield multiply(x[start : start + PART], head)

    def _attend(self, block: int, x: np.ndarray, cache: list[np.ndarray], bias: np.ndarray) -> np.ndarray:
        """Attention of new tokens [T, C] to themselves and to those in the cache, which they join."""
        parts = self._multiply(x, f"h{block}/attn/c_attn").reshape(len(x), 3, self.config.n_head, -1)
        queries, *new = parts.transpose(1, 2, 0, 3)  # [H, T, D] each
        cache[block] = np.concatenate([cache[block], new], axis=2)
        keys, values = cache[block]
        heads = [attend(q, k, v, bias) for q, k, v in zip(queries, keys, values, strict=True)]
        return self._multiply(np.concatenate(heads, axis=-1), f"h{block}/attn/c_proj")

    def _multiply(self, x: np.ndarray, name: str) -> np.ndarray:
        weights, bias = self._pair(name, "w")
        return multiply(x, weights) + bias

    def _pair(self, name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """The two tensors of a part: its matrix w or its gain g, and its bias."""
        return self._read(f"{name}/{kind}"), self._read(f"{name}/b")


def hold_reference(model: OpenedModel) -> Reference:
    """The reference of a model, with all weights in memory. Raises InputError if the checkpoint is damaged."""
    weights = {name: model.checkpoint.read(name) for name in tensor_shapes(model.config)}
    return Reference(model.config, weights.__getitem__)


def multiply(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Tokens [T, inputs] times a matrix [inputs, outputs].

    A token alone takes one thread: on a busy machine those of OpenBLAS wait for each other a hundred times as long.
    """
    return np.einsum("ti,io->to", x, weights) if len(x) == 1 else x @ weights


def attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One head's attention: queries [T, D], keys and values [S, D], a bias of the scores [T, S] → [T, D]."""
    scores = queries @ keys.T / math.sqrt(queries.shape[-1]) + bias
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares @ values / shares.sum(axis=-1, keepdims=True)


def layer_norm(x: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Normalizes x [..., C] over its channels."""
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + 1e-5) * gain + bias


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU in the tanh approximation that OpenAI uses."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
