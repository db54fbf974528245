"""The settings shared by the commands that run a model: which one, how it samples, and on what."""

import dataclasses
from typing import Any

from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.commands.flags import check_ranges, flag
from gpt_tf2.commands.progress import Counter, print_to_stderr
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.engine import Say, choose_engine, open_decoder
from gpt_tf2.errors import InputError
from gpt_tf2.generation.sampling import Sampler, make_sampler

COUNT: dict[str, Any] = {"kind": int, "at_least": 1, "below": 2**31}


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """A model, and how it generates."""

    model_path: str = flag("models/124M", "the model: a TF1 prefix or folder, .h5 or .safetensors", short="model")
    json_hparams: str | None = flag(None, "its hyper-parameters (from the model or its folder)")
    json_encoder: str | None = flag(None, "its token table (encoder.json beside the model)")
    vocab_bpe: str | None = flag(None, "its merges (vocab.bpe beside the model)")
    output_length: int = flag(100, "maximum number of new tokens", short="length", **COUNT)
    temperature: float = flag(1.0, "sampling temperature (0 takes the likeliest token)", kind=float, at_least=0)
    top_k: int | None = flag(
        None, "sample from the K most likely tokens, 0: from all (2, or 0 with a nucleus)", kind=int, at_least=0
    )
    nucleus: bool = flag(False, "sample from the nucleus of --top_p", kind=bool)
    top_p: float = flag(
        1.0, "probability mass of the nucleus; below 1 it implies --nucleus", kind=float, above=0, at_most=1
    )
    min_p: float = flag(
        0.0, "keep tokens with at least this fraction of the top token's probability", kind=float, at_least=0, below=1
    )
    repetition_penalty: float = flag(1.0, "above 1, makes tokens that occurred less likely", kind=float, above=0)
    batch_size: int = flag(1, "sequences generated in parallel", **COUNT, at_most=10_000)
    seed: int | None = flag(None, "seed of the samples, to reproduce them", kind=int, at_least=0)
    engine: str = flag("auto", "litert or the Keras graph (auto: litert on a CPU)", choices=("auto", "litert", "graph"))
    precision: str = flag(
        "auto",
        "precision of the Keras graph (auto: bfloat16 on a GPU, float32 on a CPU)",
        choices=("auto", "float32", "bfloat16"),
    )
    quantize: str | None = flag(None, "int8 weights on a CPU: half the memory, three times as fast", choices=("int8",))
    draft: str = flag(
        "auto",
        "speculative decoding by prompt lookup: faster where text is copied, same output",
        choices=("auto", "on", "off"),
    )

    def __post_init__(self) -> None:
        check_ranges(self)

    def drafts(self, by_default: bool) -> bool:
        """Whether to use draft tokens."""
        return by_default if self.draft == "auto" else self.draft == "on"

    def sampler(self) -> Sampler:
        """The sampling rules. `top_k` is 2 by default, as in the 2019 script, but 0 where a nucleus is asked for."""
        default = 0 if self.nucleus or self.top_p < 1 else 2
        top_k = default if self.top_k is None else self.top_k
        return make_sampler(self.temperature, top_k, self.top_p, self.min_p, self.repetition_penalty)


def find_model(settings: ModelSettings) -> tuple[OpenedModel, str]:
    """Opens the model and chooses its engine, without TensorFlow where that is not needed.

    Raises InputError if there is no such model, or the engine cannot run here.
    """
    engine = choose_engine(settings.engine, settings.quantize, settings.precision)
    return open_model(settings.model_path, settings.json_hparams, settings.json_encoder, settings.vocab_bpe), engine


def load_decoder(settings: ModelSettings, model: OpenedModel, engine: str, say: Say = print_to_stderr) -> Decoder:
    """Loads the model, converting it first if its engine needs that, with progress on stderr."""
    with Counter("converting for LiteRT, once", "blocks", stderr=True) as counter:
        return open_decoder(model, engine, settings.quantize or settings.precision, say, counter.show)


def check_room(settings: ModelSettings, model: OpenedModel) -> None:
    """Raises InputError if what is to be generated leaves no room for a prompt."""
    if settings.output_length >= model.config.n_ctx:
        message = f"leaves no room for a prompt in n_ctx {model.config.n_ctx} of {model.path}: lower it"
        raise InputError(message, "output_length", settings.output_length)
