"""`generate`: checkpoint → model → decoder → text."""

import dataclasses
import math
import re
from typing import TYPE_CHECKING

from gpt_tf2.backend import start
from gpt_tf2.checkpoints import find_config, find_tokenizer, open_checkpoint, read_model
from gpt_tf2.errors import InputError
from gpt_tf2.flags import flag
from gpt_tf2.generation.sampling import Sampler, make_sampler
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt_tf2.generation.decoder import Decoder

ESCAPED_QUOTATION_MARK = re.compile(r"""\\(["'`´‘’‚‛“”„‟«»‹›])""")


@dataclasses.dataclass(frozen=True)
class GenerateSettings:
    """The flags of `inference.py`, under their own names."""

    model_path: str = flag("models/124M", "the model: a TF1 prefix or folder, .h5 or .safetensors", short="model")
    json_hparams: str | None = flag(None, "its hyper-parameters (those in or beside the model)")
    json_encoder: str | None = flag(None, "its token table (the encoder.json beside the model)")
    vocab_bpe: str | None = flag(None, "its merges (the vocab.bpe beside the model)")
    starter: str = flag("", r"the text to go on from; \n in it is a line break (none: a new text)", short="prompt")
    output_length: int = flag(100, "most tokens to add", kind=int, short="length")
    batch_size: int = flag(1, "samples of the one starter", kind=int)
    temperature: float = flag(1.0, "below 1 is safer, above 1 is wilder, 0 takes the likeliest token", kind=float)
    top_k: int | None = flag(None, "draw from the K likeliest tokens; 0 from all (2, or 0 with a nucleus)", kind=int)
    nucleus: bool = flag(False, "draw from the nucleus of --top_p", kind=bool)
    top_p: float = flag(1.0, "share of the probability in the nucleus; below 1 it sets --nucleus", kind=float)
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


def generate(settings: GenerateSettings) -> list[str]:
    """Samples from a model.

    Returns:
        `batch_size` texts, each with the starter in front.

    Raises InputError if a setting or a file is bad, or the starter leaves no room in the context.
    """
    checkpoint = open_checkpoint(settings.model_path)
    config = find_config(checkpoint, settings.json_hparams)
    tokenizer = find_tokenizer(checkpoint.path, config, settings.json_encoder, settings.vocab_bpe)
    prompt = tokenizer.encode(unescaped(settings.starter))
    if len(prompt) >= config.n_ctx:
        room = f"{len(prompt)} tokens, n_ctx of {checkpoint.path} is {config.n_ctx}"
        raise InputError(f"--starter has {room}: shorten it to {config.n_ctx - 1} or fewer")
    start()
    from gpt_tf2.generation.decoder import Decoder

    decoder = Decoder(read_model(checkpoint, config))
    count, length = settings.batch_size, settings.output_length
    return sampled_text(decoder, tokenizer, prompt, count, length, settings.sampler(), settings.seed)


def sampled_text(
    decoder: "Decoder",
    tokenizer: Tokenizer,
    prompt: list[int],
    count: int,
    length: int,
    sampler: Sampler,
    seed: int | None,
) -> list[str]:
    """`count` texts that go on from a prompt's ids, which stand in front; an empty one begins a new text."""
    from gpt_tf2.generation.generate import sample

    rows = sample(decoder, prompt or [tokenizer.end_of_text], count, length, sampler, tokenizer.end_of_text, seed)
    return [tokenizer.decode(prompt + row) for row in rows]


def unescaped(starter: str) -> str:
    r"""A starter as typed: `\\n` is a line break, and the backslash before a quotation mark of any kind goes."""
    return ESCAPED_QUOTATION_MARK.sub(r"\1", starter.replace("\\n", "\n"))
