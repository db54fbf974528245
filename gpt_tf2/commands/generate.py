"""`generate`: samples of a model's text."""

import contextlib
import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import COUNT, ModelSettings, find_model, load_decoder
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.errors import InputError
from gpt_tf2.generation.samples import spawn_generators
from gpt_tf2.generation.sampling import MinimumLength
from gpt_tf2.generation.scheduler import Request
from gpt_tf2.generation.scheduling import make_scheduler
from gpt_tf2.generation.text_stream import TextStream, discard
from gpt_tf2.storage.files import read_utf8
from gpt_tf2.storage.pieces import write_pieces

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
    min_length: int = flag(0, "minimum number of new tokens", kind=int)
    output_file: str | None = flag(None, "write the samples to this file instead of printing them")
    json: bool = flag(False, "print one JSON object per sample, for programs", kind=bool)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_length <= self.output_length:
            raise InputError(f"use 0 to {self.output_length}, the `output_length`", "min_length", self.min_length)
        if self.stop == "":
            raise InputError("would end every sample before it begins: give a text, or leave it out", "stop", "''")
        if self.prompts is not None and self.starter:
            raise InputError("cannot be combined with `starter`: drop one", "prompts", self.prompts)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A completion of a starter.

    prompt: the starter, unescaped. text: what the model added. tokens: how many that took.
    ended: why it ended: "end" (of the text), "stop" (the stop text) or "length".
    """

    prompt: str
    text: str
    tokens: int
    ended: str


def generate(settings: GenerateSettings) -> list[str]:
    """Generates samples.

    Returns:
        The samples of the first starter, then those of the second, and so on; each with its starter in front, unless
        `include_prompt` is "no".

    Raises InputError if a setting or a file is bad, or a starter leaves no room in the context.

    Example:
        >>> generate(GenerateSettings("models/124M", starter="The tide", output_length=20, n_samples=3))
    """
    with_starter = settings.include_prompt == "yes"
    return [sample.prompt * with_starter + sample.text for sample in generate_samples(settings, discard)]


def print_samples(settings: GenerateSettings) -> None:
    """Generates samples and prints them, or writes them to `output_file`.

    A single sample is streamed to stdout as it is generated; progress and speed go to stderr.
    """
    began = time.monotonic()

    def show(text: str) -> None:
        print(text, end="", flush=True)

    alone = not settings.prompts and (settings.n_samples or settings.batch_size) == 1
    streaming = alone and not settings.json and not settings.output_file
    with_starter = settings.include_prompt == "yes"
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(write_pieces(settings.output_file, "output_file")) if settings.output_file else show
        for sample in generate_samples(settings, show if streaming else discard, print_to_stderr):
            samples.append(sample)
            if settings.json:
                piece = json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n"
            else:
                piece = f"{sample.prompt * with_starter + sample.text}\n{LINE}\n"
            write(f"\n{LINE}\n" if streaming else piece)
    if settings.output_file:
        print_to_stderr(f"wrote {len(samples):,} samples to {settings.output_file}")
    tokens, seconds = sum(sample.tokens for sample in samples), time.monotonic() - began
    print_to_stderr(f"{tokens:,} tokens in {seconds:.1f} s, including loading")


def generate_samples(settings: GenerateSettings, show: Show, say: Show = discard) -> Iterator[Sample]:
    """Yields the samples in the order of their starters, once all are finished.

    Args:
        show: called with each starter and with the text as it is generated.
        say: called with lines about the run.
    """
    model, engine = find_model(settings)
    tokenizer, config = model.tokenizer, model.config
    starters = [unescape(starter) for starter in read_starters(settings)]
    prompts = [tokenizer.encode(starter) for starter in starters]
    for number, prompt in enumerate(prompts, start=1):
        if len(prompt) >= config.n_ctx:
            excess = f"{len(prompt)} tokens, n_ctx of {model.path} is {config.n_ctx}"
            fix = f"shorten it to {config.n_ctx - 1} or fewer"
            if settings.prompts:
                raise InputError(f"the starter has {excess}: {fix}", "prompts", f"{settings.prompts}:{number}")
            raise InputError(f"`starter` has {excess}: {fix}")
    decoder = load_decoder(settings, model, engine, say)
    stops = [unescape(settings.stop)] if settings.stop else []
    count = settings.n_samples or settings.batch_size
    began = time.monotonic()
    sampler, end, draft = settings.sampler(), tokenizer.end_of_text, settings.drafts(False)
    scheduler = make_scheduler(decoder, sampler, end, settings.batch_size, draft)
    for number, generator in enumerate(spawn_generators(settings.seed, count * len(prompts))):
        if settings.include_prompt == "yes":
            show(starters[number // count])
        prompt = prompts[number // count] or [end]
        rules = sampler.rules
        if settings.min_length:  # first, so that a nucleus never holds the end alone
            rules = (MinimumLength(end, len(prompt) + settings.min_length), *rules)
        room = min(settings.output_length, config.n_ctx - len(prompt))
        stream = TextStream(tokenizer, stops, show)
        ruled = dataclasses.replace(sampler, rules=rules)
        scheduler.submit(Request(prompt, room, ruled, generator, stream.add, tag=(number, stream)))
    samples: dict[int, Sample] = {}
    for request in scheduler.run():
        number, stream = request.tag
        ended = "stop" if stream.stopped else "length" if stream.tokens >= request.max_new_tokens else "end"
        samples[number] = Sample(starters[number // count], stream.finish(), stream.tokens, ended)
    seconds = time.monotonic() - began
    tokens = sum(sample.tokens for sample in samples.values())
    yield from (samples[number] for number in sorted(samples))
    say(f"{tokens / seconds:.3g} tokens/s, {decoder.name}")


def read_starters(settings: GenerateSettings) -> list[str]:
    """The starters as they were typed. Raises InputError if their file cannot be read or holds none."""
    if settings.prompts is None:
        return [settings.starter]
    if settings.prompts == "-":
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8 text at byte {error.start}: write it as UTF-8", "prompts", "-") from None
    else:
        text = read_utf8(Path(settings.prompts))
    starters = [line for line in text.splitlines() if line.strip()]
    if not starters:
        raise InputError("no starters in it: give a starter a line", "prompts", settings.prompts)
    return starters


def unescape(starter: str) -> str:
    r"""A starter as it is meant: `\\n` becomes a line break, a backslash before a quotation mark is dropped."""
    return ESCAPED_QUOTATION_MARK.sub(r"\1", starter.replace("\\n", "\n"))
