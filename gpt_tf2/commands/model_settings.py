"""The flags of every command that lets a model write."""

import dataclasses
import math

from gpt_tf2.commands.flags import flag
from gpt_tf2.errors import InputError
from gpt_tf2.generation.sampling import Sampler, make_sampler

ENGINES = ("auto", "litert", "graph")
DRAFT = ("auto", "on", "off")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """A model, and how it writes."""

    model_path: str = flag("models/124M", "the model: a TF1 prefix or folder, .h5 or .safetensors", short="model")
    json_hparams: str | None = flag(None, "its hyper-parameters (those in or beside the model)")
    json_encoder: str | None = flag(None, "its token table (the encoder.json beside the model)")
    vocab_bpe: str | None = flag(None, "its merges (the vocab.bpe beside the model)")
    output_length: int = flag(100, "most tokens to add", kind=int, short="length")
    temperature: float = flag(1.0, "below 1 is safer, above 1 is wilder, 0 takes the likeliest token", kind=float)
    top_k: int | None = flag(None, "draw from the K likeliest tokens; 0 from all (2, or 0 with a nucleus)", kind=int)
    nucleus: bool = flag(False, "draw from the nucleus of --top_p", kind=bool)
    top_p: float = flag(1.0, "share of the probability in the nucleus; below 1 it sets --nucleus", kind=float)
    min_p: float = flag(0.0, "draw only from what is at least so many times as likely as the likeliest", kind=float)
    repetition_penalty: float = flag(1.0, "above 1 makes less likely what has been said", kind=float)
    batch_size: int = flag(1, "samples at a time", kind=int)
    seed: int | None = flag(None, "of the draws, for the same text again", kind=int)
    engine: str = flag("auto", "what runs the model: on a CPU LiteRT, else the Keras graph", choices=ENGINES)
    quantize: str | None = flag(None, "int8: less than half of the memory, and faster", choices=("int8",))
    draft: str = flag("auto", "guess tokens from the text and verify several at once: same result", choices=DRAFT)

    def __post_init__(self) -> None:
        """Raises InputError if a value is out of range."""
        if self.output_length < 1:
            raise InputError(f"--output_length {self.output_length}: give at least 1")
        if self.batch_size < 1:
            raise InputError(f"--batch_size {self.batch_size}: give at least 1")
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"--temperature {self.temperature}: give 0 (the likeliest token) or more")
        if self.top_k is not None and self.top_k < 0:
            raise InputError(f"--top_k {self.top_k}: give at least 1, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top_p {self.top_p}: give more than 0, at most 1")
        if not 0 <= self.min_p < 1:
            raise InputError(f"--min_p {self.min_p}: give 0 (all) or more, less than 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise InputError(f"--repetition_penalty {self.repetition_penalty}: give more than 0, 1 for none")
        for name, given, known in (("engine", self.engine, ENGINES), ("draft", self.draft, DRAFT)):
            if given not in known:
                raise InputError(f"--{name} {given}: unknown: give one of {', '.join(known)}")
        if self.quantize not in (None, "int8"):
            raise InputError(f"--quantize {self.quantize}: unknown: give int8, or leave it out")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"--seed {self.seed}: give 0 or more")

    def drafts(self, by_default: bool) -> bool:
        """Whether tokens are guessed."""
        return by_default if self.draft == "auto" else self.draft == "on"

    def sampler(self) -> Sampler:
        """Top-k as given; by default 2, as the 2019 script had it, but none where a nucleus is asked for."""
        default = 0 if self.nucleus or self.top_p < 1 else 2
        top_k = default if self.top_k is None else self.top_k
        return make_sampler(self.temperature, top_k, self.top_p, self.min_p, self.repetition_penalty)
