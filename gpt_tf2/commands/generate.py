"""`generate`: checkpoint → model → decoder → text."""

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import COUNT, ModelSettings, find_model, load_decoder
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.errors import InputError
from gpt_tf2.generation.sampling import MinimumLength, Sampler
from gpt_tf2.generation.scheduler import Generator, Request, row_generators
from gpt_tf2.generation.text_stream import Writer, nowhere
from gpt_tf2.storage.files import read_utf8, write_text
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt_tf2.decoding.decoder import Decoder

ESCAPED_QUOTATION_MARK = re.compile(r"""\\(["'`´‘’‚‛“”„‟«»‹›])""")
LINE = "-" * 50
Show = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class GenerateSettings(ModelSettings):
    """The settings of `inference.py`, named like its flags.

    Raises InputError for a value that is out of range, or that contradicts another.
    """

    starter: str = flag("", r"the text to continue; \n in it is a line break (none: a new text)", short="prompt")
    prompts: str | None = flag(None, "a file of starters instead, one per line; - is stdin")
    n_samples: int | None = flag(None, "samples of each starter (--batch_size)", **COUNT)
    include_prompt: str = flag("yes", "print the starter in front of each sample", choices=("yes", "no"))
    stop: str | None = flag(None, r"text that ends a sample; \n in it is a line break")
    min_length: int = flag(0, "fewest tokens to generate", kind=int)
    output_file: str | None = flag(None, "write the samples to this file instead of printing them")
    json: bool = flag(False, "print one JSON object per sample, for programs", kind=bool)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_length <= self.output_length:
            raise InputError(f"use 0 to {self.output_length}, the `output_length`", "min_length", self.min_length)
        if self.stop == "":
            raise InputError("would end every text before it begins: give a text, or leave it out", "stop", "''")
        if self.prompts is not None and self.starter:
            raise InputError("cannot be combined with `starter`: drop one", "prompts", self.prompts)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a model wrote.

    tokens: how many. ended: end (of the text), stop (the stop text) or length.
    """

    prompt: str
    text: str
    tokens: int
    ended: str


def generate(settings: GenerateSettings) -> list[str]:
    """Samples from a model.

    Returns:
        Texts, each with the starter in front unless `include_prompt` is no: those of the first starter, of the second …

    Raises InputError if a setting or a file is bad, or a starter leaves no room in the context.
    """
    shown = settings.include_prompt == "yes"
    return [sample.prompt * shown + sample.text for sample in samples(settings, nowhere)]


def print_samples(settings: GenerateSettings) -> None:
    """What `generate` gives, on standard output as it comes; what is said about it goes to standard error."""
    began = time.monotonic()

    def show(text: str) -> None:
        print(text, end="", flush=True)

    alone = not settings.prompts and (settings.n_samples or settings.batch_size) == 1
    streaming = alone and not settings.json and not settings.output_file
    made, shown = [], settings.include_prompt == "yes"
    written = ""
    for sample in samples(settings, show if streaming else nowhere, print_to_stderr):
        made.append(sample)
        if settings.json:
            piece = json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n"
        else:
            piece = f"{sample.prompt * shown + sample.text}\n{LINE}\n"
        if settings.output_file:
            written += piece
        else:
            show(f"\n{LINE}\n" if streaming else piece)
    if settings.output_file:
        write_text(settings.output_file, written)
        print_to_stderr(f"{settings.output_file}: {len(made):,} samples")
    tokens, seconds = sum(sample.tokens for sample in made), time.monotonic() - began
    print_to_stderr(f"{tokens:,} tokens in {seconds:.1f} s, loading among them")


def samples(settings: GenerateSettings, show: Show, say: Show = nowhere) -> Iterator[Sample]:
    """Samples in the order of their starters.

    show: is called with the starter and the text as it comes; say: with lines about the work.
    """
    model, engine = find_model(settings)
    tokenizer, config = model.tokenizer, model.config
    starters = [unescaped(starter) for starter in read_starters(settings)]
    prompts = [tokenizer.encode(starter) for starter in starters]
    for number, prompt in enumerate(prompts, start=1):
        if len(prompt) >= config.n_ctx:
            message = f"{len(prompt)} tokens, n_ctx of {model.path} is {config.n_ctx}: shorten it to {config.n_ctx - 1}"
            setting, value = ("prompts", f"{settings.prompts}:{number}") if settings.prompts else ("starter", None)
            raise InputError(message, setting, value)
    decoder = load_decoder(settings, model, engine, say)
    stops = [unescaped(settings.stop)] if settings.stop else []
    count = settings.n_samples or settings.batch_size
    generators = row_generators(settings.seed, count * len(prompts))
    waiting = iter(range(count * len(prompts)))
    done: dict[int, Sample] = {}
    began = time.monotonic()

    def following(request: Request | None) -> Request | None:
        if request:
            number, writer = request.key
            ids = writer.count
            ended = "stop" if writer.stopped else "length" if ids >= request.new_tokens else "end"
            done[number] = Sample(starters[number // count], writer.finish(), ids, ended)
        number = next(waiting, -1)
        if number < 0:
            return None
        prompt = prompts[number // count] or [tokenizer.end_of_text]
        if settings.include_prompt == "yes":
            show(starters[number // count])
        writer = Writer(tokenizer, stops, show)
        room = min(settings.output_length, config.n_ctx - len(prompt))
        sampler = settings.sampler()
        if settings.min_length:
            least = MinimumLength(tokenizer.end_of_text, len(prompt) + settings.min_length)
            sampler = dataclasses.replace(sampler, rules=(*sampler.rules, least))
        return Request(prompt, room, sampler, generators[number], writer.add, (number, writer))

    Generator(decoder, tokenizer.end_of_text, settings.drafts(False)).run(following, settings.batch_size)
    seconds = time.monotonic() - began
    tokens = sum(sample.tokens for sample in done.values())
    yield from (done[number] for number in sorted(done))
    say(f"{tokens / seconds:.3g} tokens/s, {decoder.name}")


def read_starters(settings: GenerateSettings) -> list[str]:
    """The starters as typed. Raises InputError if their file cannot be read, or holds none."""
    if settings.prompts is None:
        return [settings.starter]
    if settings.prompts == "-":
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8 at byte {error.start}: write it as UTF-8", "prompts", "-") from None
    else:
        text = read_utf8(Path(settings.prompts))
    starters = [line for line in text.splitlines() if line.strip()]
    if not starters:
        raise InputError("no starter in it: write one per line", "prompts", settings.prompts)
    return starters


def sample_text(
    decoder: "Decoder",
    tokenizer: Tokenizer,
    prompt: list[int],
    length: int,
    sampler: Sampler,
    seed: int | None,
) -> str:
    """A text that goes on from a prompt's ids, without them; an empty one begins a new text."""
    writer = Writer(tokenizer)
    request = Request(prompt or [tokenizer.end_of_text], length, sampler, row_generators(seed, 1)[0], writer.add)
    Generator(decoder, tokenizer.end_of_text).run_all([request], 1)
    return writer.finish()


def unescaped(starter: str) -> str:
    r"""A starter as it was meant: `\\n` is a line break, and the backslash before any quotation mark goes."""
    return ESCAPED_QUOTATION_MARK.sub(r"\1", starter.replace("\\n", "\n"))
