"""The tokens of a task's examples, prepared once by several processes and kept, memory-mapped, beside the data."""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import filelock
import numpy as np

from gpt_tf2.backend.processes import in_processes
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import KEPT, digest_of, stamp_of, sync, write_text
from gpt_tf2.tasks import find_task, text
from gpt_tf2.tasks.task import Example, LeftOut, Task, Unusable, nothing_left
from gpt_tf2.tokenizer import Tokenizer

FORMAT = 1  # of the files; another number prepares anew
CHUNK = 64  # examples that a process is given at a time
PASSAGE, PROMPT, COMPLETION, STREAM, STREAM_GOES_ON = range(5)  # kinds of segments
ARRAYS = {"tokens": None, "ends": "int64", "kinds": "uint8", "firsts": "int64", "shortest": "int32"}
Show = Callable[[int, int | None], None]  # items done, of how many if that is known


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Examples as segments of tokens: a passage, then for each turn a prompt and the completions to draw from. Or, of
    the task `text`, streams in one or more segments.

    tokens: all of them in a row, unsigned. ends: int64 [segments], where each ends in it. kinds: uint8 [segments].
    firsts: int64 [examples + 1], the first segment of each. shortest: int32 [examples], how many tokens the first turn
    takes with the passage, its shortest completion and the end of text.
    key: tells these tokens from all others.
    left_out: lines to show.
    """

    tokens: np.ndarray
    ends: np.ndarray
    kinds: np.ndarray
    firsts: np.ndarray
    shortest: np.ndarray
    key: str
    left_out: list[str]

    def segment(self, index: int) -> np.ndarray:
        """The tokens of a segment."""
        return self.tokens[self.ends[index - 1] if index else 0 : self.ends[index]]

    def streams(self) -> list[np.ndarray]:
        """The streams of a text."""
        begins = np.flatnonzero(self.kinds == STREAM)
        return np.split(self.tokens, self.ends[begins[1:] - 1])


def prepare(
    data_loader: str,
    dataset_path: str,
    split: str,
    tokenizer: Tokenizer,
    cache: str | None,
    show: Show,
    waiting: Callable[[], None],
) -> Tokens:
    """The tokens of a split: those kept if data, task and vocabulary are as they were, else prepared now.

    Args:
        cache: the folder to keep them in; by default `.gpt_tf2` beside the data.
        show: is called with the progress.
        waiting: is called if another process prepares the same; its work is used then.

    Raises InputError if the data is bad, or the folder cannot be written to.
    """
    if next(data_files(dataset_path), None) is None:
        raise InputError(f"--dataset_path {dataset_path}: no file there: check the path")
    home = Path(cache) if cache else folder_of(dataset_path) / KEPT
    # Found again when data and folder move together; a folder may hold the tokens of several data sets.
    place = hashlib.sha256(os.path.relpath(dataset_path, home).encode()).hexdigest()[:8]
    folder = home / f"{Path(data_loader).stem}-{split}-{place}"
    settings = settings_key(data_loader, split, tokenizer)
    with locked(folder, waiting):
        kept = open_kept(folder, settings, dataset_path)
        if kept is None:
            try:
                build(folder, settings, data_loader, dataset_path, split, tokenizer, show)
            except OSError as error:
                reason = error.strerror or error
                raise InputError(f"{folder}: cannot be written ({reason}): free space, or give --cache") from None
            kept = open_kept(folder, settings, dataset_path)
        if kept is None:
            raise InputError(f"--dataset_path {dataset_path}: changed while it was read: start again")
    return kept


def folder_of(dataset_path: str) -> Path:
    """The folder that a data set is, or lies in; of a glob, the last one that it names."""
    path = Path(dataset_path)
    while glob.has_magic(str(path)) or not path.is_dir():
        path = path.parent
    return path


@contextlib.contextmanager
def locked(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """One process at a time; the system lifts the lock of one that is killed.

    A folder that is there is read without a lock where none can be written.
    """
    home, path = folder.parent, folder.with_suffix(".lock")
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waiting()
            lock.acquire()
    except OSError as error:
        if not folder.is_dir():
            where = f"{home}: cannot be written to ({error.strerror})"
            raise InputError(f"{where}: give another folder for the prepared tokens, --cache FOLDER") from None
        yield
        return
    try:
        yield
    finally:
        lock.release()
        if not folder.is_dir():  # bad data: nothing stays beside it
            with contextlib.suppress(OSError):
                path.unlink()
                home.rmdir()


def settings_key(data_loader: str, split: str, tokenizer: Tokenizer) -> str:
    """What the tokens depend on beside the data."""
    digest = hashlib.sha256(f"{FORMAT} {split}\n".encode())
    task_file = find_task(data_loader).__file__
    for path in (Path(task_file), *tokenizer.files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def data_files(dataset_path: str) -> Iterator[str]:
    """The files of a data set in a fixed order, without what is kept beside them.

    Raises InputError if a folder cannot be read.
    """
    if not Path(dataset_path).is_dir():
        yield from sorted(glob.glob(dataset_path, recursive=True))  # noqa: PTH207 - it may be absolute
        return
    try:
        with os.scandir(dataset_path) as entries:
            found = sorted((entry.name, entry.is_dir(), entry.path) for entry in entries)
    except OSError as error:
        raise InputError(f"{dataset_path}: cannot be read ({error.strerror}): check its permissions") from None
    for name, is_folder, path in found:
        if not is_folder:
            yield path
        elif name != KEPT:
            yield from data_files(path)


def stamp(dataset_path: str) -> str:
    """A digest of names, sizes and times: the same only if no file was touched."""
    digest = hashlib.sha256()
    for path in data_files(os.path.abspath(dataset_path)):  # noqa: PTH100 - it may be a glob
        with contextlib.suppress(OSError):  # a dangling link has neither
            digest.update(stamp_of(path).encode())
    return digest.hexdigest()


def content_key(dataset_path: str) -> str:
    """A digest of what the files hold, wherever they lie."""
    digest = hashlib.sha256()
    for path in data_files(dataset_path):
        digest.update(f"{os.path.relpath(path, dataset_path)}\0".encode())
        with contextlib.suppress(OSError):
            digest.update(digest_of(path))
    return digest.hexdigest()


def open_kept(folder: Path, settings: str, dataset_path: str) -> Tokens | None:
    """What is kept in a folder, if it is whole and of these settings and this data."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if about["settings"] != settings:
        return None
    now = stamp(dataset_path)
    if about["stamp"] != now:
        if about["content"] != content_key(dataset_path):
            return None
        with contextlib.suppress(InputError):  # it may lie where nothing can be written
            write_text(folder / "about.json", json.dumps({**about, "stamp": now}))
    arrays = {}
    for name, dtype in ARRAYS.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != about["bytes"][name]:
            return None
        arrays[name] = np.memmap(path, dtype or about["dtype"], "r")
    return Tokens(**arrays, key=settings + about["content"], left_out=about["left_out"])


def build(
    folder: Path, settings: str, data_loader: str, dataset_path: str, split: str, tokenizer: Tokenizer, show: Show
) -> None:
    """Prepares the tokens beside `folder`, then puts them in its place."""
    # Told before anything is read: what changes meanwhile does not fit them afterwards.
    before, content = stamp(dataset_path), content_key(dataset_path)
    found = text.parts(dataset_path) if data_loader == "text" else find_task(data_loader).items(dataset_path, split)
    total = len(found) if isinstance(found, Sized) else None
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    dtype = np.min_scalar_type(tokenizer.n_vocab - 1)
    left_out = LeftOut()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        files = {name: stack.enter_context((temporary / name).open("wb")) for name in ARRAYS}
        writer = Writer(files, dtype)
        done = 0
        for encoded, unusable in encoded_chunks(
            Work(data_loader, tokenizer.files, settings, str(Path.cwd())), found, total
        ):
            for example in encoded:
                writer.add(example)
            for error in unusable:
                left_out.add(error.reason, error.name)
            done += len(encoded) + len(unusable)
            show(done, total)
        if not writer.segments:
            raise nothing_left(dataset_path, split, left_out)
        about = {
            "settings": settings,
            "stamp": before,
            "content": content,
            "dtype": dtype.name,
            "bytes": {name: file.tell() for name, file in files.items()},
            "left_out": left_out.lines(),
        }
        for name, file in files.items():
            file.close()
            sync(temporary / name)
        write_text(temporary / "about.json", json.dumps(about))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        sync(folder.parent)


class Work(NamedTuple):
    """What a process must know, which may have worked for another folder or another content of these files before."""

    data_loader: str
    vocabulary: tuple[Path, Path]
    settings: str
    folder: str


class Encoded(NamedTuple):
    """An example. ids: of all segments in a row; lengths, kinds: of each segment; shortest: as in `Tokens`."""

    ids: np.ndarray
    lengths: list[int]
    kinds: list[int]
    shortest: int


class Writer:
    """Appends examples to the open files of `ARRAYS`."""

    def __init__(self, files: Mapping[str, BinaryIO], dtype: np.dtype):
        self.files, self.dtype = files, dtype
        self.segments = self.tokens = 0
        self.append("firsts", [0])

    def append(self, name: str, values: Any) -> None:
        self.files[name].write(np.asarray(values, ARRAYS[name] or self.dtype).tobytes())

    def add(self, example: Encoded) -> None:
        self.append("tokens", example.ids)
        self.append("ends", self.tokens + np.cumsum(example.lengths))
        self.append("kinds", example.kinds)
        self.tokens += len(example.ids)
        self.segments += len(example.kinds)
        self.append("firsts", [self.segments])
        self.append("shortest", [example.shortest])


def encoded_chunks(
    work: Work, items: Iterable[Any], total: int | None
) -> Iterator[tuple[list[Encoded], list[Unusable]]]:
    """The items' tokens, chunk by chunk in their order, by as many processes as there are cores."""
    chunks = chunked(items, 1 if work.data_loader == "text" else CHUNK)
    if total is not None and total < 4 * CHUNK:  # starting processes would take longer
        yield from (encode_chunk(work, chunk) for chunk in chunks)
        return
    yield from in_processes(encode_chunk, ((work, chunk) for chunk in chunks))


def chunked(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def encode_chunk(work: Work, items: list[Any]) -> tuple[list[Encoded], list[Unusable]]:
    """The examples of items, and what was no use among them."""
    os.chdir(work.folder)
    task, tokenizer = opened(work)
    if work.data_loader == "text":
        return [encode_part(part, tokenizer) for part in items], []
    encoded, unusable = [], []
    for item in items:
        try:
            encoded.append(encode(task.example(item), tokenizer))
        except Unusable as error:
            unusable.append(error)
    return encoded, unusable


@functools.lru_cache(maxsize=1)
def opened(work: Work) -> tuple[Task, Tokenizer]:
    """Task and vocabulary, read once a process."""
    return find_task(work.data_loader), Tokenizer(*work.vocabulary)


def encode_part(part: text.Part, tokenizer: Tokenizer) -> Encoded:
    """The tokens of a part of a text."""
    ids = text.encode_part(part, tokenizer)
    dtype = np.min_scalar_type(tokenizer.n_vocab - 1)
    return Encoded(ids.astype(dtype), [len(ids)], [STREAM if part.begins else STREAM_GOES_ON], 0)


def encode(example: Example, tokenizer: Tokenizer) -> Encoded:
    """An example's tokens. Raises Unusable if a completion has none.

    Each segment is encoded apart: what is generated begins where a prompt's tokens end.
    """
    texts = [(PASSAGE, example.passage)]
    for turn in example.turns:
        texts += [(PROMPT, turn.prompt), *((COMPLETION, completion) for completion in turn.completions)]
    ids = [tokenizer.encode(text) for _, text in texts]
    lengths = [len(part) for part in ids]
    if any(kind == COMPLETION and not length for (kind, _), length in zip(texts, lengths, strict=True)):
        raise Unusable("a completion is empty", example.id)
    completions = lengths[2 : 2 + len(example.turns[0].completions)]
    dtype = np.min_scalar_type(tokenizer.n_vocab - 1)
    return Encoded(
        np.array([i for part in ids for i in part], dtype),
        lengths,
        [kind for kind, _ in texts],
        lengths[0] + lengths[1] + min(completions) + 1,
    )
