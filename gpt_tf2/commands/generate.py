"""`generate`: samples of a model's text."""

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gpt_tf2.commands.decoders import find_model, load_decoder
from gpt_tf2.commands.generate_settings import GenerateSettings
from gpt_tf2.commands.progress import print_to_stderr
from gpt_tf2.errors import InputError
from gpt_tf2.generation.completions import CompletionRules, Sample, check_prompt, complete_prompts, encode_prompt
from gpt_tf2.generation.text_stream import discard
from gpt_tf2.storage.pieces import write_pieces
from gpt_tf2.storage.text_files import ENCODING_FIX, read_lines
from gpt_tf2.tokenizer import END_OF_TEXT

ESCAPE = re.compile(r"""\\\\n|\\n|\\["'`´‘’‚‛“”„‟«»‹›]""")
LINE = "-" * 50
Show = Callable[[str], None]


def generate(settings: GenerateSettings) -> list[str]:
    """Generates samples.

    Returns:
        The samples of the first starter, then those of the second, and so on; each with its starter in front, unless
        `include_prompt` is false.

    Raises InputError if a setting or a file is bad, or a starter leaves no room in the context.

    Example:
        >>> generate(GenerateSettings(model="124M", prompt="The tide", max_new_tokens=20, n_samples=3))
    """
    with_starter = settings.include_prompt
    return [sample.prompt * with_starter + sample.text for sample in generate_samples(settings, discard)]


def print_samples(settings: GenerateSettings) -> None:
    """Generates samples and prints them, or writes them to `output`, each as soon as those before it are done.

    A single sample is streamed to stdout as it is generated; progress and speed go to stderr.
    """
    began = time.monotonic()

    def show(text: str) -> None:
        print(text, end="", flush=True)

    alone = not settings.prompts and (settings.n_samples or settings.batch_size) == 1
    streaming = alone and not settings.json and not settings.output
    count = tokens = 0
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(write_pieces(settings.output, "output")) if settings.output else show
        for sample in generate_samples(settings, show if streaming else discard, print_to_stderr):
            count, tokens = count + 1, tokens + sample.tokens
            write(f"\n{LINE}\n" if streaming else format_sample(settings, sample))
    if settings.output:
        print_to_stderr(f"wrote {count:,} samples to {settings.output}")
    print_to_stderr(f"{tokens:,} tokens in {time.monotonic() - began:.1f} s, including loading")


def format_sample(settings: GenerateSettings, sample: Sample) -> str:
    """A sample as it is printed."""
    if settings.json:
        return json.dumps(dataclasses.asdict(sample), ensure_ascii=False) + "\n"
    return f"{sample.prompt * settings.include_prompt + sample.text}\n{LINE}\n"


def generate_samples(settings: GenerateSettings, show: Show, say: Show = discard) -> Iterator[Sample]:
    """Yields the samples in the order of their starters, each once it and those before it are finished.

    Args:
        show: called with the first starter, and with the text of every sample as it is generated.
        say: called with lines about the run.
    """
    starters = list_starters(settings)  # first: a model may have to be downloaded
    model, engine = find_model(settings)
    rules = settings.rules([unescape(settings.stop)] if settings.stop else [])
    prompts = []
    for starter in starters:
        prompts.append(encode_prompt(model.tokenizer, starter.text, settings.literal_specials))
        name, where = ("the starter", ("prompts", starter.place)) if starter.place else ("`prompt`", ())
        check_prompt(model, prompts[-1], rules, name, *where)
    for line in describe_room(max(len(prompt.ids) for prompt in prompts), len(prompts) > 1, model.config.n_ctx, rules):
        say(line)
    specials = sum(prompt.text.count(END_OF_TEXT) for prompt in prompts)
    if specials:
        meaning = "letters" if settings.literal_specials else "the end-of-text token"
        say(f"{specials:,} {END_OF_TEXT} in the prompts, read as {meaning}")
    decoder = load_decoder(settings, model, engine, say)
    began, tokens = time.monotonic(), 0
    if settings.include_prompt:
        show(prompts[0].text)
    for sample in filter(None, complete_prompts(decoder, model.tokenizer, prompts, rules, show)):
        tokens += sample.tokens
        yield sample
    rate = tokens / (time.monotonic() - began)
    say(f"{f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}'} tokens/s, {decoder.name}")


def describe_room(longest: int, is_of_several: bool, n_ctx: int, rules: CompletionRules) -> Iterator[str]:
    """Yields lines on what does not fit into the context after the longest prompt, of `longest` tokens."""
    prompt = "the longest prompt" if is_of_several else "the prompt"
    room, half = n_ctx - longest, n_ctx // 2
    if room <= 0:  # only beyond the context
        yield f"{prompt} has {longest:,} tokens, the context {n_ctx:,}: the model reads the last {half:,} of them"
        room = n_ctx - half
    if room < rules.max_new_tokens:
        line = f"the context of {n_ctx:,} tokens has room for {room:,} after {prompt}"
        if rules.beyond_context:
            yield f"{line}, then goes on with the last {half:,}"
        else:
            yield f"{line}, not for {rules.max_new_tokens:,} (--beyond_context goes on)"


class Starter(NamedTuple):
    """A text to continue. place: the file and line that it is from, if it is from one."""

    text: str
    place: str | None = None


def list_starters(settings: GenerateSettings) -> list[Starter]:
    """The starters: those of a file as they stand in it, a typed one as it is meant.

    Raises InputError if their file cannot be read or holds none.
    """
    if settings.prompts is None:
        return [Starter(unescape(settings.prompt))]
    starters = [
        Starter(line, f"{settings.prompts}:{number}")
        for number, line in enumerate(read_lines(settings.prompts, settings.encoding, ENCODING_FIX), start=1)
        if line.strip()
    ]
    if not starters:
        raise InputError("no prompts in it: write one per line", "prompts", settings.prompts)
    return starters


def unescape(starter: str) -> str:
    r"""A typed starter as it is meant.

    `\n` becomes a line break, `\\n` a backslash and n, and a backslash before a quotation mark is dropped.
    """
    return ESCAPE.sub(lambda match: {"\\n": "\n", "\\\\n": "\\n"}.get(match[0], match[0][1:]), starter)
