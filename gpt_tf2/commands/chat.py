"""`chat`: questions about a passage, answered one after another by a model that was fine-tuned on CoQA."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator

from gpt_tf2.commands.engine import find_source, open_decoder, to_stderr
from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import ModelSettings
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.predictions import prompt_ids
from gpt_tf2.generation.scheduler import Generator, Request, row_generators
from gpt_tf2.generation.text_stream import Writer
from gpt_tf2.storage.files import read_utf8
from gpt_tf2.tasks import coqa
from gpt_tf2.tasks.task import Example, Turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatSettings(ModelSettings):
    """The flags of `gpt-tf2 chat`."""

    passage: str = flag(dataclasses.MISSING, "the file of the text that is asked about")
    temperature: float = flag(0.0, "0 takes the likeliest token, above 0 draws", kind=float)


def chat(settings: ChatSettings) -> None:
    """Reads questions from standard input, a line each, and prints the answer to each.

    Raises InputError if a setting or a file is bad, or the passage is empty.
    """
    passage = read_utf8(settings.passage).strip()
    if not passage:
        raise InputError(f"--passage {settings.passage}: nothing in it: give the text that is asked about")
    for piece in answers(settings, passage, questions()):
        print(piece, end="", flush=True)


def questions() -> Iterator[str]:
    """Lines of standard input; a person at a terminal is shown where to type."""
    shown = sys.stdin.isatty()
    while True:
        if shown:
            print("Q: ", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InputError(f"standard input: not UTF-8 text at byte {error.start}: write it as UTF-8") from None
        if not line:
            return
        if line.strip():
            yield line.strip()


def answers(settings: ChatSettings, passage: str, asked: Iterable[str]) -> Iterator[str]:
    """The answer to each question, then a line break; earlier questions and the model's answers are its context."""
    source = find_source(settings)
    source.check_room()
    tokenizer, room = source.tokenizer(), source.config.n_ctx - settings.output_length
    decoder = open_decoder(source, to_stderr)
    generator = Generator(decoder, tokenizer.end_of_text, settings.drafts(True))
    draws = row_generators(settings.seed, 1)[0]
    ids = tokenizer.encode(passage)
    turns: list[Turn] = []
    given: list[str] = []
    for question in asked:
        turns.append(Turn(coqa.asking(question), ("",)))
        example = Example("", passage, tuple(turns))
        prompt, _ = prompt_ids(ids, example, given, room, tokenizer)
        writer = Writer(tokenizer, [coqa.STOP])
        generator.run_all([Request(prompt, settings.output_length, settings.sampler(), draws, writer.add)], 1)
        given.append(writer.finish())
        yield f"{given[-1].strip()}\n"
