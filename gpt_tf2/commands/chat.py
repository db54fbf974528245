"""`chat`: a model fine-tuned on CoQA answers questions about a passage."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator

from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import ModelSettings, check_room, find_model, load_decoder
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.predictions import prompt_ids
from gpt_tf2.generation.scheduler import Generator, Request, row_generators
from gpt_tf2.generation.text_stream import Writer
from gpt_tf2.storage.files import read_utf8
from gpt_tf2.tasks import coqa
from gpt_tf2.tasks.task import Example, Turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatSettings(ModelSettings):
    """The settings of `chat`."""

    passage: str = flag(dataclasses.MISSING, "the file with the text to ask about")
    temperature: float = flag(0.0, "0 takes the top token, above 0 samples", kind=float, at_least=0)


def chat(settings: ChatSettings) -> None:
    """Reads questions from stdin, one per line, and prints the answer to each.

    Raises InputError if a setting or a file is bad, or the passage is empty.
    """
    passage = read_utf8(settings.passage).strip()
    if not passage:
        raise InputError("empty: give the text to ask about", "passage", settings.passage)
    for piece in answers(settings, passage, questions()):
        print(piece, end="", flush=True)


def questions() -> Iterator[str]:
    """The lines of stdin; at a terminal with a prompt to type at."""
    shown = sys.stdin.isatty()
    while True:
        if shown:
            print("Q: ", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InputError(f"stdin: not UTF-8 at byte {error.start}: write it as UTF-8") from None
        if not line:
            return
        if line.strip():
            yield line.strip()


def answers(settings: ChatSettings, passage: str, asked: Iterable[str]) -> Iterator[str]:
    """The answer to each question, then a line break; earlier questions and the model's answers are its context."""
    model, engine = find_model(settings)
    check_room(settings, model)
    tokenizer, room = model.tokenizer, model.config.n_ctx - settings.output_length
    decoder = load_decoder(settings, model, engine)
    generator = Generator(decoder, tokenizer.end_of_text, settings.drafts(True))
    draws = row_generators(settings.seed, 1)[0]
    ids = tokenizer.encode(passage)
    turns: list[Turn] = []
    given: list[str] = []
    for question in asked:
        turns.append(Turn(coqa.format_question(question), ("",)))
        example = Example("", passage, tuple(turns))
        prompt, _ = prompt_ids(ids, example, given, room, tokenizer)
        writer = Writer(tokenizer, [coqa.STOP])
        generator.run_all([Request(prompt, settings.output_length, settings.sampler(), draws, writer.add)], 1)
        given.append(writer.finish())
        yield f"{given[-1].strip()}\n"
