"""The task `text`: plain text to go on from, read as streams of tokens."""

import array
import csv
import glob
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from gpt_tf2.errors import InputError
from gpt_tf2.tasks.task import Example, Turn, Unusable
from gpt_tf2.tokenizer import Tokenizer

SPLITS = ("train",)
STOP = ""
NAMES = None
SUFFIX = ".txt"
START_OF_TEXT = "<|startoftext|>"  # no token of its own: the model sees its letters


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
    joined = array.array("i")  # a list would take nine times the memory
    arrays: list[np.ndarray] = []
    unended = False
    for path in find_files(dataset_path):
        if path.suffix == ".npz":
            arrays += read_arrays(path, tokenizer.n_vocab)
            continue
        if unended:
            joined.append(tokenizer.end_of_text)
        unended = path.suffix != ".csv"
        if unended:
            joined.extend(tokenizer.encode(read_text(path)))
            continue
        line_break = tokenizer.encode("\n")
        for row in tokenizer.encode_batch([START_OF_TEXT + row for row in read_column(path)]):
            joined.extend([*row, tokenizer.end_of_text, *line_break])
    streams = [np.asarray(joined, "int32"), *arrays]
    if not any(len(stream) for stream in streams):
        raise InputError(f"--dataset_path {dataset_path}: no text in it: give a file, folder or glob that holds some")
    return streams


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
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise InputError(f"--dataset_path {dataset_path}: no file there: give a file, a folder or a glob")
    return files


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="ignore")
    except OSError as error:
        raise InputError(f"--dataset_path {path}: cannot be read ({error.strerror}): check its permissions") from None


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


def read_arrays(path: Path, n_vocab: int) -> list[np.ndarray]:
    """The arrays of an `.npz` of token ids."""
    try:
        # Opened as zip first: given another format, np.load returns something else than a table of arrays.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"--dataset_path {path}: not an .npz of arrays ({error}): write it again") from None
    for name, ids in arrays.items():
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            kind = f"{ids.dtype} {list(ids.shape)}"
            raise InputError(f"--dataset_path {path}: array {name} is {kind}: give token ids, one-dimensional integers")
        if ids.size and not 0 <= ids.min() <= ids.max() < n_vocab:
            found = f"{ids.min()} to {ids.max()}"
            raise InputError(
                f"--dataset_path {path}: array {name} has ids {found}, the vocabulary {n_vocab}: encode it anew"
            )
    return [ids.astype("int32") for ids in arrays.values()]
