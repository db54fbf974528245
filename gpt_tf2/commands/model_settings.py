"""The settings shared by the commands that run a model: which one, how it samples, and on what."""

import dataclasses
from typing import TYPE_CHECKING, Any

from gpt_tf2.commands.flags import check_ranges, flag

if TYPE_CHECKING:
    from gpt_tf2.generation.sampling import Sampler

MAX_NEW_TOKENS = 100  # by default
COUNT: dict[str, Any] = {"kind": int, "at_least": 1, "below": 2**31}
OF_MODEL: dict[str, Any] = {"group": "model", "metavar": "FILE"}
MODEL = (
    "a released size, such as 124M, a name in models/, hf://owner/name, "
    "or a path: a folder, a TF1 prefix, .h5 or .safetensors"
)
BASE: dict[str, Any] = {"help": "the model that adapters belong to, if it is not where they say", "group": "model"}
OFFLINE: dict[str, Any] = {"help": "do not download the model if it is missing", "group": "model", "kind": bool}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """A model, and how it generates."""

    model: str = flag("124M", MODEL, also=("model_path",), group="model", metavar="MODEL")
    base: str | None = flag(None, **BASE, metavar="MODEL")
    json_hparams: str | None = flag(None, "its hyper-parameters (from the model or its folder)", **OF_MODEL)
    json_encoder: str | None = flag(None, "its token table (encoder.json or tokenizer.json beside it)", **OF_MODEL)
    vocab_bpe: str | None = flag(None, "its merges (vocab.bpe beside the model)", **OF_MODEL)
    offline: bool = flag(False, **OFFLINE)
    max_new_tokens: int | None = flag(
        None,
        f"most tokens to generate ({MAX_NEW_TOKENS}, or less in a short context)",
        also=("output_length", "length"),
        group="sampling",
        **COUNT,
    )
    temperature: float = flag(
        1.0, "0 takes the most likely token, higher values vary more", group="sampling", kind=float, at_least=0
    )
    top_p: float = flag(
        1.0,
        "sample from the most likely tokens with this probability in all; below 1 it implies --nucleus",
        group="sampling",
        kind=float,
        above=0,
        at_most=1,
    )
    nucleus: bool = flag(False, "sample from the nucleus of --top_p", group="sampling", kind=bool)
    top_k: int | None = flag(
        None,
        "sample from the K most likely tokens, 0: from all (2, or 0 with a nucleus)",
        group="sampling",
        metavar="K",
        kind=int,
        at_least=0,
    )
    min_p: float = flag(
        0.0,
        "drop tokens with less than this fraction of the top token's probability",
        group="sampling",
        kind=float,
        at_least=0,
        below=1,
    )
    repetition_penalty: float = flag(
        1.0,
        "above 1, makes tokens that occurred less likely",
        group="sampling",
        kind=float,
        at_least=0.001,
        at_most=1000,
    )
    seed: int | None = flag(None, "seed of the samples, to reproduce them", group="sampling", kind=int, at_least=0)
    batch_size: int = flag(1, "sequences generated in parallel", group="memory", kind=int, at_least=1, at_most=10_000)
    quantize: str | None = flag(
        None, "int8 weights on a CPU: half the memory, three times as fast", group="memory", choices=("int8",)
    )
    engine: str = flag(
        "auto",
        "native kernels (x86 with AVX-512 VNNI), litert, or the Keras graph (auto: the fastest here)",
        group="memory",
        choices=("auto", "native", "litert", "graph"),
    )
    precision: str = flag(
        "auto",
        "precision of the Keras graph (auto: bfloat16 on a GPU, float32 on a CPU)",
        group="memory",
        choices=("auto", "float32", "bfloat16"),
    )
    draft: str = flag(
        "auto",
        "draft tokens, same output: by int8 for native float32 (auto), also by prompt lookup (on), or none (off)",
        group="memory",
        choices=("auto", "on", "off"),
    )

    def __post_init__(self) -> None:
        check_ranges(self)

    def drafts(self, by_default: bool) -> bool:
        """Whether to look up draft tokens."""
        return by_default if self.draft == "auto" else self.draft == "on"

    def sampler(self) -> "Sampler":
        """The sampling rules. `top_k` is 2 by default, as in the 2019 script, but 0 where a nucleus is asked for."""
        from gpt_tf2.generation.sampling import make_sampler

        default = 0 if self.nucleus or self.top_p < 1 else 2
        top_k = default if self.top_k is None else self.top_k
        return make_sampler(self.temperature, top_k, self.top_p, self.min_p, self.repetition_penalty)
