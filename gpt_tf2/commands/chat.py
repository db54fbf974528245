"""`chat`: a model that was fine-tuned on CoQA answers questions about a passage."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator

from gpt_tf2.commands.data_settings import ENCODING
from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import ModelSettings, check_room, find_model, load_decoder
from gpt_tf2.errors import InputError
from gpt_tf2.generation.prompts import build_prompt
from gpt_tf2.generation.samples import spawn_generators
from gpt_tf2.generation.scheduler import Request
from gpt_tf2.generation.scheduling import make_scheduler
from gpt_tf2.generation.text_stream import TextStream
from gpt_tf2.storage.text_files import ENCODING_FIX, check_encoding, read_text
from gpt_tf2.tasks import coqa
from gpt_tf2.tasks.task import Example, Turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatSettings(ModelSettings):
    """The settings of `chat`."""

    passage: str = flag(dataclasses.MISSING, "the file with the text to ask about", group="text", metavar="FILE")
    encoding: str | None = flag(None, **ENCODING | {"group": "text"})
    temperature: float = flag(
        0.0, "0 takes the most likely token, higher values vary more", group="sampling", kind=float, at_least=0
    )


def chat(settings: ChatSettings) -> None:
    """Reads questions from stdin, one per line, and prints the answer to each.

    Raises InputError if a setting or a file is bad, or the passage is empty.
    """
    check_encoding(settings.encoding)
    passage = read_text(settings.passage, settings.encoding, encoding_fix=ENCODING_FIX).strip()
    if not passage:
        raise InputError("empty: give the text to ask about", "passage", settings.passage)
    for line in answer_questions(settings, passage, read_questions()):
        print(line, end="", flush=True)


def read_questions() -> Iterator[str]:
    """Yields the lines of stdin that are not empty. On a terminal, prompts for each."""
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            print("Q: ", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise InputError(f"stdin: not UTF-8 at byte {error.start}: write it as UTF-8") from None
        if not line:
            return
        if line.strip():
            yield line.strip()


def answer_questions(settings: ChatSettings, passage: str, questions: Iterable[str]) -> Iterator[str]:
    """Yields the answer to each question, with a line break. The earlier questions and answers are its context."""
    model, engine = find_model(settings)
    check_room(settings, model)
    tokenizer, room = model.tokenizer, model.config.n_ctx - settings.max_new_tokens
    decoder = load_decoder(settings, model, engine)
    sampler = settings.sampler()
    # One scheduler for all questions: where it keeps what is cached, the passage is computed once.
    scheduler = make_scheduler(decoder, sampler, tokenizer.end_of_text, slots=1, draft=settings.drafts(True))
    (generator,) = spawn_generators(settings.seed, 1)
    passage_ids = tokenizer.encode(passage)
    turns: list[Turn] = []
    answers: list[str] = []
    for question in questions:
        turns.append(Turn(coqa.format_question(question), ("",)))
        prompt, _ = build_prompt(passage_ids, Example("", passage, tuple(turns)), answers, room, tokenizer)
        stream = TextStream(tokenizer, [coqa.STOP])
        request = Request(prompt, settings.max_new_tokens, sampler, generator, stream.add)
        scheduler.run_all([request])
        answers.append(stream.finish())
        yield f"{answers[-1].strip()}\n"
