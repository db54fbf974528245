"""The data of a training run: text → task → tokens → batches."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpt_tf2.commands.progress import Counter
from gpt_tf2.data.batches import Batches, StreamWindows, split
from gpt_tf2.data.packing import PackedExamples
from gpt_tf2.data.prepared import Tokens, prepare
from gpt_tf2.errors import InputError
from gpt_tf2.tasks import find_task, text
from gpt_tf2.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt_tf2.commands.finetune_settings import FinetuneSettings

LARGE = 1 << 26  # bytes of text from which on its tokens are kept on disk rather than in memory


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run trains on.

    batches: whether every shape costs a compilation → the batches for training, and for validation if any are kept.
    key: tells it from other data.
    about: lines to show.
    prompt: ids to show samples of.
    """

    batches: Callable[[bool], tuple[Batches, Batches | None]]
    key: str
    about: list[str]
    prompt: list[int]


def read_data(settings: "FinetuneSettings", tokenizer: Tokenizer) -> Data:
    """Reads `--dataset_path`. Raises InputError if it is bad, or holds nothing of the length asked for."""
    if settings.data_loader == "text":
        return read_text(settings, tokenizer)
    return read_examples(settings, tokenizer)


def read_text(settings: "FinetuneSettings", tokenizer: Tokenizer) -> Data:
    if settings.cache or sum(path.stat().st_size for path in text.find_files(settings.dataset_path)) >= LARGE:
        tokens = prepared(settings, tokenizer, "parts")
        streams, key = tokens.streams(), tokens.key
    else:
        streams = text.read_streams(settings.dataset_path, tokenizer)
        key = hashlib.sha256(b"".join(stream.tobytes() for stream in streams)).hexdigest()
    training, validation = (StreamWindows(part, settings.length) for part in split(streams, settings.val_fraction))
    check_length(training, "for training", "shorten --length or give more text", settings)
    if settings.val_fraction:
        check_length(validation, "for validation", "raise --val_fraction or shorten --length", settings)
    about = [f"{settings.dataset_path}: {sum(map(len, streams)):,} tokens"]
    kept = validation if settings.val_fraction else None
    return Data(lambda compiled: (training, kept), key, about, [])


def check_length(part: StreamWindows, use: str, mend: str, settings: "FinetuneSettings") -> None:
    if not part.window_counts().any():
        longest = f"{max(map(len, part.streams))} tokens in a row {use}"
        where = f"--dataset_path {settings.dataset_path}"
        raise InputError(f"{where}: {longest}, fewer than --length {settings.length}: {mend}")


def read_examples(settings: "FinetuneSettings", tokenizer: Tokenizer) -> Data:
    tokens = prepared(settings, tokenizer, "examples")
    count, where = len(tokens.shortest), f"--dataset_path {settings.dataset_path}"
    fitting = np.flatnonzero(tokens.shortest <= settings.length)
    too_long = count - len(fitting)
    if not len(fitting):
        raise InputError(
            f"{where}: each of {count:,} examples is longer than --length {settings.length}: give a greater --length"
        )
    cut = len(fitting) - round(len(fitting) * settings.val_fraction)
    if not 0 < cut < len(fitting) + (not settings.val_fraction):
        raise InputError(f"--val_fraction {settings.val_fraction}: leaves {cut} of {len(fitting)} examples: change it")
    about = [*tokens.skipped, f"{settings.dataset_path}: {count:,} examples, {len(tokens.tokens):,} tokens"]
    if too_long:
        about.append(f"left out {too_long:,}, longer than --length {settings.length}")

    def batches(compiled: bool) -> tuple[Batches, Batches | None]:
        # What is compiled is compiled anew for every shape: all of it, or of a training step on a CPU the GELU alone.
        multiple = settings.length // 4 or 1 if compiled else 32
        training, validation = (
            PackedExamples(tokens, part, settings.length, settings.completion_only(), tokenizer.end_of_text, multiple)
            for part in (fitting[:cut], fitting[cut:])
        )
        return training, validation if settings.val_fraction else None

    return Data(batches, tokens.key, about, first_prompt(tokens, int(fitting[-1])))


def prepared(settings: "FinetuneSettings", tokenizer: Tokenizer, unit: str) -> Tokens:
    """The tokens of the training split; shows the progress in a unit."""
    train = find_task(settings.data_loader).SPLITS[0]
    with Counter(f"preparing {train}", unit) as counter:
        return prepare(
            settings.data_loader,
            settings.dataset_path,
            train,
            tokenizer,
            settings.cache,
            counter.show,
            lambda: counter.say(f"{settings.dataset_path}: another run prepares it; waiting"),
        )


def first_prompt(tokens: Tokens, example: int) -> list[int]:
    """The passage and the first prompt of an example."""
    first = int(tokens.first_spans[example])
    return [*tokens.span(first).tolist(), *tokens.span(first + 1).tolist()]
