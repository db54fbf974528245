"""The hyper-parameters of a GPT-2, the four released sizes, and the names and shapes of its tensors."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import read_json

MOST = 2**31 - 1  # of a hyper-parameter: a token, a position and a tensor's dimension are 32-bit integers
MOST_LAYERS = 10_000  # so that the list of tensors stays small, whatever a file says


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """The hyper-parameters of a GPT-2, named as in OpenAI's `hparams.json`.

    n_vocab: tokens in the vocabulary.
    n_ctx: the longest sequence, in tokens.
    n_embd: the width of the network.
    n_head: attention heads per block.
    n_layer: blocks.
    tied: whether the output matrix is the token embedding, as in every model of OpenAI's. Some models of others have
        one of their own, the tensor `lm_head`.

    Raises InputError if a value is not a positive integer, if it is larger than any network's, or if `n_head` does not
    divide `n_embd`.

    Example:
        >>> GPT2Config(n_vocab=50257, n_ctx=1024, n_embd=768, n_head=12, n_layer=12) == SIZES["124M"]
        True
    """

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int
    tied: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.tied, bool):
            raise InputError(f"tied is {self.tied!r}: give true or false")
        for name, value in dataclasses.asdict(self).items():
            if name == "tied":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} is {value!r}: give a positive integer")
            most = MOST_LAYERS if name == "n_layer" else MOST
            if value > most:
                raise InputError(f"{name} is more than {most:,}: give the model's own value")
        if self.n_embd % self.n_head:
            raise InputError(f"n_head {self.n_head} does not divide n_embd {self.n_embd}: give the model's own values")

    @classmethod
    def from_dict(cls, values: object, source: str) -> "GPT2Config":
        """Makes a config from a mapping, ignoring keys that are not hyper-parameters.

        Args:
            source: the file that the mapping comes from, for messages.

        Raises InputError if `values` is no mapping, lacks a hyper-parameter, or holds an impossible one.
        """
        if not isinstance(values, dict):
            raise InputError(f"{source}: not a JSON object of hyper-parameters: give the model's hparams.json")
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in values and name != "tied"]
        if missing:
            raise InputError(f"{source}: {', '.join(missing)} missing: give the model's hparams.json")
        try:
            return cls(**{name: values[name] for name in names if name in values})
        except InputError as error:
            raise InputError(f"{source}: {error}") from None

    @classmethod
    def from_json(cls, path: str | Path) -> "GPT2Config":
        """Reads an `hparams.json`. Raises InputError if the file cannot be read or is malformed.

        Example:
            >>> GPT2Config.from_json("models/124M/hparams.json").n_layer  # doctest: +SKIP
            12
        """
        return cls.from_dict(read_json(path), str(path))

    def to_dict(self) -> dict[str, int]:
        """The hyper-parameters as OpenAI's `hparams.json` has them: `tied` is left out where it is true."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name != "tied" or not value}

    def to_json(self) -> str:
        """The content of an `hparams.json`."""
        return json.dumps(self.to_dict())


SIZES = {
    "124M": GPT2Config(n_vocab=50257, n_ctx=1024, n_embd=768, n_head=12, n_layer=12),
    "355M": GPT2Config(n_vocab=50257, n_ctx=1024, n_embd=1024, n_head=16, n_layer=24),
    "774M": GPT2Config(n_vocab=50257, n_ctx=1024, n_embd=1280, n_head=20, n_layer=36),
    "1558M": GPT2Config(n_vocab=50257, n_ctx=1024, n_embd=1600, n_head=25, n_layer=48),
}

MATRICES = ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")  # of each block


def tensor_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by OpenAI's name, in the order of the network. Matrices are [inputs, outputs].

    Example:
        >>> shapes = tensor_shapes(SIZES["124M"])
        >>> shapes["wte"], shapes["h11/mlp/c_fc/w"]
        ((50257, 768), (768, 3072))
    """
    n = config.n_embd
    shapes: dict[str, tuple[int, ...]] = {"wte": (config.n_vocab, n), "wpe": (config.n_ctx, n)}
    for layer in range(config.n_layer):
        block = {
            "ln_1/g": (n,),
            "ln_1/b": (n,),
            "attn/c_attn/w": (n, 3 * n),
            "attn/c_attn/b": (3 * n,),
            "attn/c_proj/w": (n, n),
            "attn/c_proj/b": (n,),
            "ln_2/g": (n,),
            "ln_2/b": (n,),
            "mlp/c_fc/w": (n, 4 * n),
            "mlp/c_fc/b": (4 * n,),
            "mlp/c_proj/w": (4 * n, n),
            "mlp/c_proj/b": (n,),
        }
        shapes |= {f"h{layer}/{name}": shape for name, shape in block.items()}
    shapes |= {"ln_f/g": (n,), "ln_f/b": (n,)}
    return shapes if config.tied else shapes | {"lm_head": (config.n_vocab, n)}


def scale_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The shapes of the scales, one per output, of a network whose blocks' matrices are held in int8.

    Example:
        >>> scale_shapes(SIZES["124M"])["h11/mlp/c_fc/w_scale"]
        (3072,)
    """
    return {f"{name}_scale": shape[1:] for name, shape in tensor_shapes(config).items() if name.endswith("/w")}


def output_matrix(config: GPT2Config) -> str:
    """The name of the tensor that gives the logits: [n_vocab, n_embd], like the token embedding, which it mostly is."""
    return "wte" if config.tied else "lm_head"


def adapter_shapes(config: GPT2Config, rank: int, matrices: Sequence[str] = MATRICES) -> dict[str, tuple[int, ...]]:
    """The shapes of the two LoRA factors of some matrices in each block (Hu et al. 2021, section 4.1).

    Their names are `h0/attn/c_attn/lora_a` [inputs, rank], `h0/attn/c_attn/lora_b` [rank, outputs], and so on.

    Example:
        >>> adapter_shapes(SIZES["124M"], rank=8)["h0/attn/c_attn/lora_b"]
        (8, 2304)
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in tensor_shapes(config).items():
        block, _, matrix = name.removesuffix("/w").partition("/")
        if matrix in matrices and name.endswith("/w"):
            shapes |= {f"{block}/{matrix}/lora_a": (shape[0], rank), f"{block}/{matrix}/lora_b": (rank, shape[1])}
    return shapes
