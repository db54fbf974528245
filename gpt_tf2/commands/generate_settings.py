"""The settings of `generate`."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt_tf2.commands.data_settings import ENCODING
from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import COUNT, MAX_NEW_TOKENS, ModelSettings
from gpt_tf2.errors import InputError

if TYPE_CHECKING:
    from gpt_tf2.generation.completions import CompletionRules


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateSettings(ModelSettings):
    """The settings of `inference.py`, named like its flags.

    Raises InputError for a value that is out of range, or that contradicts another.
    """

    prompt: str = flag(
        "",
        r"the text to continue; \n in it is a line break, \\n a backslash and n (none: a new text)",
        also=("starter",),
        group="text",
    )
    prompts: str | None = flag(
        None,
        "a file of prompts instead, one per line, read as they stand; - is stdin",
        group="text",
        metavar="FILE",
        replaces="prompt",
    )
    n_samples: int | None = flag(None, "samples of each prompt (--batch_size)", group="text", **COUNT)
    stop: str | None = flag(None, r"text that ends a sample; \n in it is a line break", group="text")
    min_length: int = flag(0, "fewest tokens to generate", group="sampling", kind=int)
    beyond_context: bool = flag(
        False,
        "when the context is full, go on with the last half of it alone; the model forgets what came before",
        group="sampling",
        kind=bool,
    )
    encoding: str | None = flag(None, **ENCODING | {"group": "text"})
    literal_specials: bool = flag(
        False, "read <|endoftext|> in a prompt as letters, not as the token", group="text", kind=bool
    )
    output: str | None = flag(
        None,
        "write the samples to this file instead of printing them",
        also=("output_file",),
        group="output",
        metavar="FILE",
    )
    include_prompt: bool = flag(True, "print the prompt in front of each sample", group="output", kind=bool)
    json: bool = flag(False, "print one JSON object per sample, for programs", group="output", kind=bool)

    def __post_init__(self) -> None:
        from gpt_tf2.storage.text_files import check_encoding

        super().__post_init__()
        check_encoding(self.encoding)
        most = self.max_new_tokens or MAX_NEW_TOKENS
        if not 0 <= self.min_length <= most:
            raise InputError(f"use 0 to {most}, the `max_new_tokens`", "min_length", self.min_length)
        if self.stop == "":
            raise InputError("would end every sample before it begins: give a text, or leave it out", "stop", "''")
        if self.prompts is not None and self.prompt:
            raise InputError("cannot be combined with `prompt`: drop one", "prompts", self.prompts)

    def rules(self, stops: Sequence[str]) -> "CompletionRules":
        """How prompts are completed; `stops` are the texts that end a sample."""
        from gpt_tf2.generation.completions import CompletionRules

        return CompletionRules(
            sampler=self.sampler(),
            max_new_tokens=self.max_new_tokens or MAX_NEW_TOKENS,
            min_length=self.min_length,
            stops=tuple(stops),
            n_samples=self.n_samples or self.batch_size,
            seed=self.seed,
            slots=self.batch_size,
            draft=self.drafts(False),
            beyond_context=self.beyond_context,
        )
