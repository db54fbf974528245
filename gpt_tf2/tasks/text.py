"""The task `text`: plain text to go on from, read as streams of tokens."""

import contextlib
import csv
import glob
import itertools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.storage.kept import KEPT_FOLDER
from gpt_tf2.tasks.task import Example, Turn, Unusable
from gpt_tf2.tokenizer import Tokenizer

SPLITS = ("train",)
STOP = ""
NAMES = None
SUFFIX = ".txt"
PART = 1 << 20  # bytes of a plain file that are encoded at a time, or a little more
WINDOW = 1 << 14  # bytes that are searched at a time for where to cut
ROWS = 1000  # of a .csv that are encoded at a time
START_OF_TEXT = "<|startoftext|>"  # no token of its own: the model sees its letters


class Part(NamedTuple):
    """What is encoded at a time.

    begins: whether a stream begins here. ends_another: whether the end-of-text token stands before it.
    bytes: from where to where in a plain file; rows: of a `.csv`; name: of an array of an `.npz`.
    """

    path: str
    begins: bool
    ends_another: bool = False
    bytes: tuple[int, int] = (0, 0)
    rows: tuple[str, ...] = ()
    name: str = ""


def parts(dataset_path: str) -> Iterator[Part]:
    """A data set as parts whose tokens, one after another, are those of the whole: see `read_streams`.

    Raises InputError if nothing is there, or a file cannot be read.
    """
    files = find_files(dataset_path)
    begins, unended = True, False
    for path in files:
        if path.suffix == ".csv":
            rows = iter(read_column(path))
            while some := tuple(itertools.islice(rows, ROWS)):
                yield Part(str(path), begins, unended, rows=some)
                begins = unended = False
        elif path.suffix != ".npz":
            for place in cuts(path):
                yield Part(str(path), begins, unended, bytes=place)
                begins = unended = False
            unended = True
    for path in files:
        if path.suffix == ".npz":
            yield from (Part(str(path), True, name=name) for name in array_names(path))


def encode_part(part: Part, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a part, int32 [tokens]. Raises InputError if it cannot be read, or is an array of no token ids."""
    if part.name:
        return read_array(Path(part.path), part.name, tokenizer.n_vocab)
    ids = [tokenizer.end_of_text] if part.ends_another else []
    if part.rows:
        line_break = tokenizer.encode("\n")
        for row in part.rows:
            ids += [*tokenizer.encode(START_OF_TEXT + row), tokenizer.end_of_text, *line_break]
    else:
        ids += tokenizer.encode(read_text(Path(part.path), *part.bytes))
    return np.array(ids, "int32")


def read_streams(dataset_path: str, tokenizer: Tokenizer) -> list[np.ndarray]:
    """The tokens of a data set, as streams that no training piece may cross.

    Args:
        dataset_path: a file, a folder (walked) or a glob. `.npz`: each array of token ids is a stream of its own.
            `.csv`: the first column, header skipped, each row between `<|startoftext|>` and the end-of-text token and
            a line break. Anything else is plain text, bad bytes ignored; plain files are joined with the end-of-text
            token.

    Returns:
        int32 arrays [tokens]; plain files and `.csv` rows are the first.

    Raises InputError if nothing is there, a file cannot be read, or an array holds no token ids.
    """
    streams: list[list[np.ndarray]] = []
    for part in parts(dataset_path):
        if part.begins:
            streams.append([])
        streams[-1].append(encode_part(part, tokenizer))
    joined = [np.concatenate(stream) for stream in streams]
    if not any(len(stream) for stream in joined):
        raise no_text(dataset_path)
    return joined


def no_text(dataset_path: str) -> InputError:
    return InputError(f"--dataset_path {dataset_path}: no text in it: give a file, folder or glob that holds some")


def items(dataset_path: str, split: str) -> Iterator[tuple[str, str | None]]:
    """The name and the text of each plain file and of each row of a `.csv`; no text of an `.npz`."""
    for path in find_files(dataset_path):
        if path.suffix == ".npz":
            yield str(path), None
        elif path.suffix == ".csv":
            yield from ((f"{path}:{number}", START_OF_TEXT + row) for number, row in enumerate(read_column(path), 1))
        else:
            yield str(path), read_text(path)


def example(item: tuple[str, str | None]) -> Example:
    """A text as one completion without a prompt. Raises Unusable if there is none."""
    name, text = item
    if text is None:
        raise Unusable("token ids, no text", name)
    return Example(name, "", (Turn("", (text,)),))


def find_files(dataset_path: str) -> list[Path]:
    """The files of a data set in alphabetical order of their paths."""
    path = Path(dataset_path)
    if path.is_dir():
        found: Iterable[Path] = path.rglob("*")
    elif path.exists():
        found = [path]
    else:
        found = map(Path, glob.glob(dataset_path, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = sorted(file for file in found if file.is_file() and KEPT_FOLDER not in file.parts)
    if not files:
        raise InputError(f"--dataset_path {dataset_path}: no file there: give a file, a folder or a glob")
    return files


def read_text(path: Path, start: int = 0, end: int | None = None) -> str:
    """The text of a file, or of some of its bytes, line breaks as `\\n`."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read() if end is None else file.read(end - start)
    except OSError as error:
        raise InputError(f"--dataset_path {path}: cannot be read ({error.strerror}): check its permissions") from None
    return content.decode("utf-8", errors="ignore").replace("\r\n", "\n").replace("\r", "\n")


def cuts(path: Path) -> Iterator[tuple[int, int]]:
    """From where to where a plain file's parts go: each ends before a line break that stands between two words.

    The tokenizer cuts there too, so the parts' tokens are those of the whole.
    """
    try:
        size, start = path.stat().st_size, 0
        with path.open("rb") as file:
            while start < size:
                end = min(start + PART, size)
                while end < size:
                    file.seek(end)
                    window = file.read(WINDOW)
                    found = next((i for i in range(8, len(window) - 10) if lone_break(window, i)), None)
                    if found is not None:
                        end += found
                        break
                    end = min(end + WINDOW - 18, size)
                yield start, end
                start = end
    except OSError as error:
        raise InputError(f"--dataset_path {path}: cannot be read ({error.strerror}): check its permissions") from None


def lone_break(content: bytes, place: int) -> bool:
    """Whether a line break is here, with a character that is no white space right before it, and one right after."""
    end = place + (2 if content[place : place + 2] == b"\r\n" else 1)
    if content[end - 1 : end] != b"\n":
        return False
    before = content[place - 8 : place].decode("utf-8", errors="ignore")[-1:]
    after = content[end : end + 8].decode("utf-8", errors="ignore")[:1]
    return bool(before and after) and not before.isspace() and not after.isspace()


def read_column(path: Path) -> list[str]:
    """The first column of a `.csv` without its header."""
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8", errors="ignore", newline="") as file:
            reader = csv.reader(file)
            return [row[0] for row in reader if row][1:]
    except OSError as error:
        raise InputError(f"--dataset_path {path}: cannot be read ({error.strerror}): check its permissions") from None
    except csv.Error as error:
        raise InputError(f"--dataset_path {path}:{reader.line_num}: not CSV ({error}): mend that line") from None


def array_names(path: Path) -> list[str]:
    """The names of the arrays of an `.npz`."""
    with open_arrays(path) as file:
        return list(file.files)


def read_array(path: Path, name: str, n_vocab: int) -> np.ndarray:
    """An array of token ids of an `.npz`."""
    with open_arrays(path) as file:
        ids = file[name]
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        kind = f"{ids.dtype} {list(ids.shape)}"
        raise InputError(f"--dataset_path {path}: array {name} is {kind}: give token ids, one-dimensional integers")
    if ids.size and not 0 <= ids.min() <= ids.max() < n_vocab:
        found = f"{ids.min()} to {ids.max()}"
        raise InputError(
            f"--dataset_path {path}: array {name} has ids {found}, the vocabulary {n_vocab}: encode it anew"
        )
    return ids.astype("int32")


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[Any]:
    """An open `.npz`."""
    try:
        # Opened as zip first: given another format, np.load returns something else than a table of arrays.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--dataset_path {path}: not an .npz of arrays ({error}): write it again") from None
