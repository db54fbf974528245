"""`generate`: checkpoint → model → decoder → text."""

import dataclasses
import re
from typing import TYPE_CHECKING

from gpt_tf2.backend import start
from gpt_tf2.checkpoints import find_config, find_tokenizer, open_checkpoint, read_model
from gpt_tf2.commands.model_settings import ModelSettings
from gpt_tf2.errors import InputError
from gpt_tf2.flags import flag
from gpt_tf2.generation.sampling import Sampler
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt_tf2.generation.decoder import Decoder

ESCAPED_QUOTATION_MARK = re.compile(r"""\\(["'`´‘’‚‛“”„‟«»‹›])""")


@dataclasses.dataclass(frozen=True)
class GenerateSettings(ModelSettings):
    """The flags of `inference.py`, under their own names."""

    starter: str = flag("", r"the text to go on from; \n in it is a line break (none: a new text)", short="prompt")


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
