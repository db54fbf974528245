"""The flags of every command that lets a model write."""

import dataclasses
import math

from gpt_tf2.errors import InputError
from gpt_tf2.flags import flag
from gpt_tf2.generation.sampling import Sampler, make_sampler


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
    batch_size: int = flag(1, "samples of the one starter", kind=int)
    seed: int | None = flag(None, "of the draws, for the same text again", kind=int)

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
        if self.seed is not None and self.seed < 0:
            raise InputError(f"--seed {self.seed}: give 0 or more")

    def sampler(self) -> Sampler:
        """Top-k as given; by default 2, as the 2019 script had it, but none where a nucleus is asked for."""
        default = 0 if self.nucleus or self.top_p < 1 else 2
        return make_sampler(self.temperature, default if self.top_k is None else self.top_k, self.top_p)
