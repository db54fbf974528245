"""A task's data as batches to train on: windows of running text, or packed examples."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from gpt_tf2.data.batches import Batches, StreamWindows, split
from gpt_tf2.data.encoding import read_streams
from gpt_tf2.data.packing import PackedExamples
from gpt_tf2.data.pairs import PackedPairs, measure_pairs
from gpt_tf2.data.prepared import Tokens, data_sources, prepare, prepare_in_memory
from gpt_tf2.errors import InputError
from gpt_tf2.tasks.data_files import is_stream
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.task import RunningText, Task
from gpt_tf2.tokenizer import Tokenizer

LARGE = 1 << 26  # bytes of running text from which on its tokens are kept on disk instead of in memory


class Progress(Protocol):
    """Where progress is shown."""

    def show(self, done: int, total: int | None) -> None:
        """Shows how much is prepared, and of how much if that is known."""

    def say(self, text: str) -> None:
        """Shows a line."""


class Silent:
    """A `Progress` that shows nothing."""

    def show(self, done: int, total: int | None) -> None: ...

    def say(self, text: str) -> None: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """Data to be read with a vocabulary.

    path: where the data is, also in messages.
    cache: the folder for prepared tokens; by default `.gpt_tf2` beside the data.
    in_memory: whether prepared tokens are kept nowhere, unless there is a cache.
    split: which split; by default that for training.
    """

    task: Task
    path: str
    tokenizer: Tokenizer
    cache: str | None = None
    in_memory: bool = False
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What a run trains on.

    make_batches: given whether XLA compiles each shape anew, the batches for training and those held out, if any are.
    key: identifies the tokens.
    former_key: the end of the key of the same tokens in state files of earlier versions; None if they had this key.
    report: lines to show.
    prompt: the ids that samples continue; none begin a new text.
    is_shortened: whether examples are shortened that would be skipped otherwise.
    has_chats: whether it holds chats, whose template the model needs.
    """

    make_batches: Callable[[bool], tuple[Batches, Batches | None]]
    key: str
    former_key: str | None
    report: list[str]
    prompt: list[int]
    is_shortened: bool = False
    has_chats: bool = False

    def validate_on(self, validation: "TrainingData", split: str) -> "TrainingData":
        """The same data, validated on that of another split.

        Raises InputError if both hold the same.
        """
        if validation.key == self.key:
            message = f"holds the same as the training split: give `val_fraction`, or files of {split} beside it"
            raise InputError(message, "val_split", split)

        def make_batches(xla: bool) -> tuple[Batches, Batches | None]:
            return self.make_batches(xla)[0], validation.make_batches(xla)[0]

        return dataclasses.replace(
            self,
            make_batches=make_batches,
            key=f"{self.key} {validation.key}",
            former_key=None,
            report=[*self.report, *(f"{split}: {line}" for line in validation.report)],
            is_shortened=self.is_shortened or validation.is_shortened,
        )


def open_training_data(
    source: Source,
    length: int,
    val_fraction: float,
    completion_only: bool,
    progress: Progress,
    shortens: bool = True,
    beta: float | None = None,
) -> TrainingData:
    """Reads or prepares the training split.

    Args:
        length: the tokens in a sequence.
        val_fraction: the fraction held out at the end of the data.
        completion_only: whether the loss leaves prompts out.
        shortens: whether the passage of an example that is too long is shortened; otherwise the example is skipped.
        beta: of DPO's loss, if the examples are pairs of completions: then they are skipped.

    Raises InputError if the data is bad, or holds too little for this length.
    """
    if source.task.running_text:
        return open_running_text(source, source.task.running_text, length, val_fraction, progress)
    return open_examples(source, length, val_fraction, completion_only, progress, shortens, beta)


def open_running_text(
    source: Source, running_text: RunningText, length: int, val_fraction: float, progress: Progress
) -> TrainingData:
    """Windows of a text's streams."""
    former_key = None
    is_kept = source.cache or (not source.in_memory and measure_files(source.path) >= LARGE)
    if is_kept and not is_stream(source.path):
        tokens = prepare_split(source, progress)
        streams, key, former_key, notes = tokens.streams(), tokens.key, tokens.content, tokens.skipped
    else:
        skipped = Skipped()
        streams = read_streams(running_text, source.path, source.tokenizer, skipped)
        notes = skipped.lines()
        key = hashlib.sha256(b"".join(stream.tobytes() for stream in streams)).hexdigest()
    training, held_out = (StreamWindows(part, length) for part in split(streams, val_fraction))
    check_length(training, "to train on", "lower `length` or give more text", source.path)
    if val_fraction:
        check_length(held_out, "held out", "raise `val_fraction` or lower `length`", source.path)
    report = [*notes, f"{source.path}: {sum(map(len, streams)):,} tokens"]
    return TrainingData(lambda xla: (training, held_out if val_fraction else None), key, former_key, report, [])


def measure_files(dataset_path: str) -> int:
    """The bytes of a data set's files."""
    return sum(path.stat().st_size for path in map(Path, data_sources(dataset_path).paths()) if path.is_file())


def check_length(windows: StreamWindows, use: str, fix: str, path: str) -> None:
    """Raises InputError unless there is a window."""
    if not windows.window_counts().any():
        longest = max(map(len, windows.streams))
        message = f"the longest text {use} has {longest} tokens, `length` is {windows.length}: {fix}"
        raise InputError(message, "data", path)


def open_examples(
    source: Source,
    length: int,
    val_fraction: float,
    completion_only: bool,
    progress: Progress,
    shortens: bool,
    beta: float | None,
) -> TrainingData:
    """Packed examples, or pairs; those too long for the length are shortened or skipped, and counted."""
    tokens = prepare_split(source, progress)
    count = len(tokens.shortest)
    fitting = np.flatnonzero((tokens.least(shortens) if beta is None else measure_pairs(tokens)) <= length)
    skipped, longer = count - len(fitting), fitting[tokens.shortest[fitting] > length]
    shortened = int(np.count_nonzero(tokens.has_passage(source.tokenizer.end_of_text)[longer]))
    if not len(fitting):
        message = f"each of {count:,} examples is longer than {length} tokens: raise `length`"
        raise InputError(message, "data", source.path)
    cut = len(fitting) - round(len(fitting) * val_fraction)
    if not 0 < cut < len(fitting) + (not val_fraction):
        message = (
            f"leaves {cut} of {len(fitting)} examples for training: keep at least one for training and one held out"
        )
        raise InputError(message, "val_fraction", val_fraction)
    report = [*tokens.skipped, f"{source.path}: {count:,} examples, {len(tokens.tokens):,} tokens"]
    if shortened:
        report.append(f"shortened {shortened:,} examples longer than {length} tokens at the end of their passage")
    if skipped:
        report.append(f"skipped {skipped:,} examples longer than {length} tokens")

    def make_batches(xla: bool) -> tuple[Batches, Batches | None]:
        # XLA compiles all of a step for each shape; without it, on a CPU, only the GELU is compiled so.
        multiple = length // 4 or 1 if xla else 32
        end_of_text = source.tokenizer.end_of_text
        training, held_out = (
            PackedExamples(tokens, part, length, completion_only, end_of_text, multiple, shortens)
            if beta is None
            else PackedPairs(tokens, part, length, end_of_text, beta, multiple)
            for part in (fitting[:cut], fitting[cut:])
        )
        return training, held_out if val_fraction else None

    prompt = first_prompt(tokens, int(fitting[-1]), length)
    if prompt == [source.tokenizer.end_of_text]:
        prompt = []
    return TrainingData(
        make_batches, tokens.key, tokens.content, report, prompt, len(longer) > 0, has_chats=tokens.has_chats
    )


def prepare_split(source: Source, progress: Progress) -> Tokens:
    """The tokens of the source's split, prepared now unless they are kept."""
    split = source.split or source.task.splits[0]
    if is_stream(source.path) or (source.in_memory and not source.cache):
        return prepare_in_memory(source.task, source.path, split, source.tokenizer, progress.show)
    return prepare(
        source.task,
        source.path,
        split,
        source.tokenizer,
        source.cache,
        progress.show,
        lambda: progress.say(f"{source.path}: another run is preparing it; waiting"),
    )


def first_prompt(tokens: Tokens, example: int, length: int) -> list[int]:
    """The passage, shortened so that its shortest completion fits, and the first prompt of an example."""
    first = int(tokens.first_spans[example])
    passage, prompt = tokens.span(first).tolist(), tokens.span(first + 1).tolist()
    excess = max(0, int(tokens.shortest[example]) - length)
    return [*passage[: len(passage) - excess], *prompt]
