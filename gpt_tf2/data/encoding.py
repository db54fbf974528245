"""From examples and running text to tokens, in several processes."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_tf2.backend.processes import map_in_processes
from gpt_tf2.errors import InputError
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.in_memory import PLACE
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import ChatText, Example, MarkedText, Part, Piece, RunningText, Task, Unusable
from gpt_tf2.tokenizer import Origin, Tokenizer

CHUNK = 64  # examples that a process encodes at a time
PASSAGE, PROMPT, COMPLETION, STREAM, STREAM_CONTINUED, CHAT_PASSAGE = range(6)  # kinds of spans


class Encoded(NamedTuple):
    """The tokens of an example, or of a part of a running text.

    ids: unsigned [tokens], span after span. lengths, kinds: one of each per span. shortest: how many tokens an example
    takes at least, as in `Tokens`; 0 for a part.
    """

    ids: np.ndarray
    lengths: list[int]
    kinds: list[int]
    shortest: int


class Job(NamedTuple):
    """What a worker process needs to encode the items of a task.

    loader: the task, for `find_task`.
    vocabulary: where the tokenizer is from, for `Tokenizer.open`.
    digest: the tokenizer's; see `Tokenizer.digest`.
    key: differs if the content of the task's file or of the vocabulary does: a worker outlives a run.
    folder: the working directory, which relative paths start from.
    """

    loader: str
    vocabulary: Origin
    digest: str
    key: str
    folder: str


def read_streams(
    running_text: RunningText, dataset_path: str, tokenizer: Tokenizer, skipped: Skipped
) -> list[np.ndarray]:
    """Read a running text into memory: its streams, int32 [tokens] each.

    Args:
        skipped: keeps the notes on the files, and counts those that are skipped.

    Raises InputError if a file cannot be read, or there is no text.
    """
    streams: list[list[np.ndarray]] = []
    for part in skipped.take_out(running_text.parts(dataset_path)):
        if part.begins:
            streams.append([])
        streams[-1].append(encode_pieces(running_text.read(part), part.label, tokenizer))
    joined = [np.concatenate(stream) for stream in streams]
    if not any(len(stream) for stream in joined):
        reasons = "".join(f" ({reason})" for reason in skipped.skips())
        fix = "texts that are not empty" if dataset_path == PLACE else "a file, folder or glob with text"
        raise InputError(f"no text in it{reasons}: give {fix}", "data", dataset_path)
    return joined


def encode_items(
    task: Task, tokenizer: Tokenizer, key: str, items: Iterable[Any], total: int | None
) -> Iterator[tuple[list[Encoded], list[Unusable]]]:
    """Encode items chunk by chunk, in their order, with a process per core; those of a task in memory in this one.

    Args:
        key: see `Job`.
        total: how many items there are, if that is known.

    Yields:
        The encoded items of a chunk, and why the others of it are skipped.
    """
    chunks = split_into_chunks(items, 1 if task.running_text else CHUNK)
    if not task.loader:
        yield from (encode_chunk(task, tokenizer, chunk) for chunk in chunks)
        return
    job = Job(task.loader, tokenizer.origin, tokenizer.digest, key, str(Path.cwd()))
    if total is not None and total < 4 * CHUNK:  # starting processes would take longer
        yield from (encode_for(job, chunk) for chunk in chunks)
        return
    yield from map_in_processes(encode_for, ((job, chunk) for chunk in chunks))


def split_into_chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def encode_for(job: Job, items: list[Any]) -> tuple[list[Encoded], list[Unusable]]:
    """Encode some items, in a worker process."""
    os.chdir(job.folder)
    return encode_chunk(*open_job(job), items)


def encode_chunk(task: Task, tokenizer: Tokenizer, items: list[Any]) -> tuple[list[Encoded], list[Unusable]]:
    """Encode some items."""
    encoded, unusable = [], []
    for item in items:
        try:
            if task.running_text:
                encoded.append(encode_part(task.running_text, item, tokenizer))
            else:
                encoded.append(encode_example(task.example(item), tokenizer))
        except Unusable as error:
            unusable.append(error)
    return encoded, unusable


@functools.lru_cache(maxsize=1)
def open_job(job: Job) -> tuple[Task, Tokenizer]:
    """Look up the task and read the vocabulary, once per process and job.

    Raises InputError if the vocabulary is no longer the one that the run began with.
    """
    tokenizer = Tokenizer.open(job.vocabulary)
    if tokenizer.digest != job.digest:
        raise InputError(f"{job.vocabulary[0]}: has changed since it was opened: start again")
    return find_task(job.loader), tokenizer


def encode_part(running_text: RunningText, part: Part, tokenizer: Tokenizer) -> Encoded:
    """Encode a part of a running text as one span. Raises InputError if it cannot be read."""
    ids = encode_pieces(running_text.read(part), part.label, tokenizer).astype(smallest_dtype(tokenizer))
    return Encoded(ids, [len(ids)], [STREAM if part.begins else STREAM_CONTINUED], 0)


def encode_pieces(pieces: Iterable[Piece], label: str, tokenizer: Tokenizer) -> np.ndarray:
    """Encode pieces of a running text, int32 [tokens]. Raises InputError for ids outside the vocabulary."""
    arrays: list[np.ndarray] = [np.empty(0, "int32")]
    for piece in pieces:
        if piece is None:
            arrays.append(np.array([tokenizer.end_of_text], "int32"))
        elif isinstance(piece, str):
            arrays.append(np.array(tokenizer.encode(piece, isinstance(piece, MarkedText)), "int32"))
        elif piece.size and not 0 <= piece.min() <= piece.max() < tokenizer.n_vocab:
            message = (
                f"ids {piece.min()} to {piece.max()} in a vocabulary of {tokenizer.n_vocab}: encode the text again"
            )
            raise InputError(message, "data", label)
        else:
            arrays.append(piece.astype("int32"))
    return np.concatenate(arrays)


def encode_example(example: Example, tokenizer: Tokenizer) -> Encoded:
    """Encode an example: its passage, then for each turn the prompt and the completions.

    Each span is encoded separately, because a model that generates starts where a prompt's tokens end. With nothing
    before its first completion, an example begins with the end-of-text token, as generated texts do.

    Raises Unusable if a completion is empty.
    """
    texts = [(CHAT_PASSAGE if isinstance(example.passage, ChatText) else PASSAGE, example.passage)]
    for turn in example.turns:
        texts += [(PROMPT, turn.prompt), *((COMPLETION, completion) for completion in turn.completions)]
    spans = [encode_text(text, tokenizer) for _, text in texts]
    if not spans[0] + spans[1]:
        spans[0] = [tokenizer.end_of_text]
    kinds, lengths = [kind for kind, _ in texts], [len(span) for span in spans]
    if any(kind == COMPLETION and not length for kind, length in zip(kinds, lengths, strict=True)):
        raise Unusable("a completion is empty", example.id)
    first_completions = lengths[2 : 2 + len(example.turns[0].completions)]
    return Encoded(
        ids=np.array([id for span in spans for id in span], smallest_dtype(tokenizer)),
        lengths=lengths,
        kinds=kinds,
        shortest=lengths[0] + lengths[1] + min(first_completions) + 1,
    )


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a passage, a prompt or a completion. In a chat, control tokens are those of its template only."""
    if not isinstance(text, ChatText):
        return tokenizer.encode(text)
    ids: list[int] = []
    for template, said in itertools.zip_longest(text.parts[::2], text.parts[1::2], fillvalue=""):
        ids += tokenizer.encode(template or "", allow_special=True)
        ids += [tokenizer.end_of_text] if said is None else tokenizer.encode(said, allow_added=False)
    return ids


def smallest_dtype(tokenizer: Tokenizer) -> np.dtype:
    """The smallest unsigned type that holds every token id."""
    return np.min_scalar_type(tokenizer.n_vocab - 1)
