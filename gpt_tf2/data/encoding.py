"""From examples and running text to tokens, in several processes."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_tf2.backend.processes import in_processes
from gpt_tf2.tasks import find_task, text
from gpt_tf2.tasks.task import Example, Task, Unusable
from gpt_tf2.tokenizer import Tokenizer

CHUNK = 64  # examples that a process encodes at a time
PASSAGE, PROMPT, COMPLETION, STREAM, STREAM_CONTINUED = range(5)  # kinds of spans


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

    vocabulary: the tokenizer's two files.
    key: differs if the content of the task's file or of the vocabulary does: a worker outlives a run.
    folder: the working directory, which relative paths start from.
    """

    data_loader: str
    vocabulary: tuple[Path, Path]
    key: str
    folder: str


def is_running_text(data_loader: str) -> bool:
    """Whether a task reads parts of a running text instead of examples."""
    return data_loader == "text"


def list_items(data_loader: str, dataset_path: str, split: str) -> Iterable[Any]:
    """List a task's items, or the parts of a running text. Raises InputError if the data cannot be read."""
    if is_running_text(data_loader):
        return text.parts(dataset_path)
    return find_task(data_loader).items(dataset_path, split)


def encode_items(job: Job, items: Iterable[Any], total: int | None) -> Iterator[tuple[list[Encoded], list[Unusable]]]:
    """Encode items chunk by chunk, in their order, with a process per core.

    Args:
        total: how many items there are, if that is known.

    Yields:
        The encoded items of a chunk, and why the others of it are skipped.
    """
    chunks = split_into_chunks(items, 1 if is_running_text(job.data_loader) else CHUNK)
    if total is not None and total < 4 * CHUNK:  # starting processes would take longer
        yield from (encode_chunk(job, chunk) for chunk in chunks)
        return
    yield from in_processes(encode_chunk, ((job, chunk) for chunk in chunks))


def split_into_chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def encode_chunk(job: Job, items: list[Any]) -> tuple[list[Encoded], list[Unusable]]:
    """Encode some items, in a worker process."""
    os.chdir(job.folder)
    task, tokenizer = open_job(job)
    encoded, unusable = [], []
    for item in items:
        try:
            if is_running_text(job.data_loader):
                encoded.append(encode_part(item, tokenizer))
            else:
                encoded.append(encode_example(task.example(item), tokenizer))
        except Unusable as error:
            unusable.append(error)
    return encoded, unusable


@functools.lru_cache(maxsize=1)
def open_job(job: Job) -> tuple[Task, Tokenizer]:
    """Look up the task and read the vocabulary, once per process and job."""
    return find_task(job.data_loader), Tokenizer(*job.vocabulary)


def encode_part(part: text.Part, tokenizer: Tokenizer) -> Encoded:
    """Encode a part of a running text as one span. Raises InputError if it cannot be read."""
    ids = text.encode_part(part, tokenizer).astype(smallest_dtype(tokenizer))
    return Encoded(ids, [len(ids)], [STREAM if part.begins else STREAM_CONTINUED], 0)


def encode_example(example: Example, tokenizer: Tokenizer) -> Encoded:
    """Encode an example: its passage, then for each turn the prompt and the completions.

    Each span is encoded separately, because a model that generates starts where a prompt's tokens end.

    Raises Unusable if a completion is empty.
    """
    texts = [(PASSAGE, example.passage)]
    for turn in example.turns:
        texts += [(PROMPT, turn.prompt), *((COMPLETION, completion) for completion in turn.completions)]
    spans = [tokenizer.encode(text) for _, text in texts]
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


def smallest_dtype(tokenizer: Tokenizer) -> np.dtype:
    """The smallest unsigned type that holds every token id."""
    return np.min_scalar_type(tokenizer.n_vocab - 1)
