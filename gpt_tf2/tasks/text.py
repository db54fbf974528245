"""The task `text`: running text to continue, from plain files, CSV rows and arrays of token ids."""

import csv
import glob
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gpt_tf2.errors import InputError
from gpt_tf2.storage.kept import KEPT_FOLDER
from gpt_tf2.storage.npz import array_names, read_ids
from gpt_tf2.tasks.task import Example, Piece, Turn, Unusable

SPLITS = ("train",)
PART = 1 << 20  # bytes of a plain file in a part, or a little more
WINDOW = 1 << 14  # bytes searched at a time for a place to cut
ROWS = 1000  # of a .csv in a part
START_OF_TEXT = "<|startoftext|>"  # has no token of its own: the model sees its letters


class TextPart(NamedTuple):
    """A part of the data, to be read and encoded at a time.

    begins: whether a stream begins here.
    follows: whether another text ends before it, so that the end-of-text token comes first.
    bytes: the range in a plain file. rows: the rows of a `.csv`. name: the array of an `.npz`.
    """

    path: str
    begins: bool
    follows: bool = False
    bytes: tuple[int, int] = (0, 0)
    rows: tuple[str, ...] = ()
    name: str = ""

    @property
    def label(self) -> str:
        """The file, and the array if it is one."""
        return f"{self.path}: array {self.name}" if self.name else self.path


def parts(dataset_path: str) -> Iterator[TextPart]:
    """The parts of a file, a folder (walked) or a glob, in alphabetical order of the paths.

    Plain files and rows of `.csv` files are one stream: plain files are joined with the end-of-text token, and each row
    of a `.csv` (first column, header skipped) stands between `<|startoftext|>` and that token and a line break. Each
    array of an `.npz` is a stream of its own.

    Raises InputError if there is no file, or one cannot be read.
    """
    files = find_files(dataset_path)
    begins, follows = True, False
    for path in files:
        if path.suffix == ".csv":
            rows = iter(read_column(path))
            while chunk := tuple(itertools.islice(rows, ROWS)):
                yield TextPart(str(path), begins, follows, rows=chunk)
                begins = follows = False
        elif path.suffix != ".npz":
            for byte_range in cut_file(path):
                yield TextPart(str(path), begins, follows, bytes=byte_range)
                begins = follows = False
            follows = True
    for path in files:
        if path.suffix == ".npz":
            yield from (TextPart(str(path), True, name=name) for name in array_names(path))


def read_part(part: TextPart) -> list[Piece]:
    """The pieces of a part; bytes that are not UTF-8 are dropped from plain files.

    Raises InputError if it cannot be read, or is an array without token ids.
    """
    if part.name:
        return [read_ids(Path(part.path), part.name)]
    pieces: list[Piece] = [None] if part.follows else []
    if part.rows:
        for row in part.rows:
            pieces += [START_OF_TEXT + row, None, "\n"]
        return pieces
    return [*pieces, read_text(Path(part.path), *part.bytes)]


def items(dataset_path: str, split: str) -> Iterator[tuple[str, str | None]]:
    """The name and the text of each plain file and of each row of a `.csv`; None for the text of an `.npz`."""
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
        paths: Iterable[Path] = path.rglob("*")
    elif path.exists():
        paths = [path]
    else:
        paths = map(Path, glob.glob(dataset_path, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = sorted(file for file in paths if file.is_file() and KEPT_FOLDER not in file.parts)
    if not files:
        raise InputError("no such file: give a file, a folder or a glob", "dataset_path", dataset_path)
    return files


def read_text(path: Path, start: int = 0, end: int | None = None) -> str:
    """The text of a file, or of a range of its bytes, with line breaks as `\\n`."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read() if end is None else file.read(end - start)
    except OSError as error:
        raise unreadable(path, error) from None
    return content.decode("utf-8", errors="ignore").replace("\r\n", "\n").replace("\r", "\n")


def unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot be read ({error.strerror}): check its permissions", "dataset_path", path)


def cut_file(path: Path) -> Iterator[tuple[int, int]]:
    """Cuts a plain file into byte ranges, each ending before a line break that stands between two words.

    The tokenizer cuts there too, so the tokens of the ranges, one after another, are those of the whole.
    """
    try:
        size, start = path.stat().st_size, 0
        with path.open("rb") as file:
            while start < size:
                end = min(start + PART, size)
                while end < size:
                    file.seek(end)
                    window = file.read(WINDOW)
                    cut = next((i for i in range(8, len(window) - 10) if is_lone_break(window, i)), None)
                    if cut is not None:
                        end += cut
                        break
                    end = min(end + WINDOW - 18, size)
                yield start, end
                start = end
    except OSError as error:
        raise unreadable(path, error) from None


def is_lone_break(content: bytes, start: int) -> bool:
    """Whether a line break begins at a byte, with a character other than white space right before and right after."""
    end = start + (2 if content[start : start + 2] == b"\r\n" else 1)
    if content[end - 1 : end] != b"\n":
        return False
    before = content[start - 8 : start].decode("utf-8", errors="ignore")[-1:]
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
        raise unreadable(path, error) from None
    except csv.Error as error:
        raise InputError(f"not CSV ({error}): fix that line", "dataset_path", f"{path}:{reader.line_num}") from None
