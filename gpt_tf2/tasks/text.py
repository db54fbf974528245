"""The task `text`: running text to continue, from plain files, rows of tables and arrays of token ids."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gpt_tf2.errors import InputError
from gpt_tf2.storage.npz import array_names, read_ids
from gpt_tf2.storage.text_files import ENCODING_FIX, MARKS, decode, plain_suffix, read_blocks
from gpt_tf2.tasks.data_files import is_stream, list_files
from gpt_tf2.tasks.tables import is_table, read_table
from gpt_tf2.tasks.task import DEFAULT_READING, Example, MarkedText, Note, Piece, Reading, Turn, Unusable
from gpt_tf2.vocabularies.byte_level import END_OF_TEXT

SPLITS = ("train",)
READS = ("encoding", "column", "literal_specials")
PART = 1 << 20  # characters of a plain file in a part, or a little more
ROWS = 1000  # of a table in a part
START_OF_TEXT = "<|startoftext|>"  # has no token of its own: the model sees its letters
# The tokenizer cuts there too, so the tokens of parts, one after another, are those of the whole.
LONE_BREAK = re.compile(r"(?<=\S)\n(?=\S)")
BINARY = "binary file or archive"
# How files of other kinds begin that may look like text there. Most others are known by their NUL bytes.
SIGNATURES = (
    *(b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh91AY&SY", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!\x1a"),
    *(b"%PDF-", b"{\\rtf", b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"\x7fELF", b"PAR1", b"\x93NUMPY"),
    b"\x89HDF",
)
ARRAY = re.compile(rb"[\xef\xbb\xbf\xff\xfe\0\s]*\[")  # a JSON array in UTF-8 or UTF-16
HEAD = 8000  # bytes in which a binary file is recognized
CONTROL = re.compile(r"[\x01-\x08\x0e-\x1a\x7f]")


class TextPart(NamedTuple):
    """A part of the data, to be encoded at a time.

    begins: whether a stream begins here.
    follows: whether another text ends before it, so that the end-of-text token comes first.
    text: of a plain file. rows: of a table, with their numbers. name: of the array of an `.npz`.
    literal: whether `<|endoftext|>` is its letters.
    """

    path: str
    begins: bool
    follows: bool = False
    text: str = ""
    rows: tuple[tuple[int, str], ...] = ()
    name: str = ""
    literal: bool = False

    @property
    def label(self) -> str:
        """The file, and the array if it is one."""
        return f"{self.path}: array {self.name}" if self.name else self.path


def parts(dataset_path: str, reading: Reading = DEFAULT_READING) -> Iterator[TextPart | Note | Unusable]:
    """The parts of a file, a folder (walked) or a glob, in alphabetical order of the paths.

    Plain files and rows of tables are one stream: plain files are joined with the end-of-text token, and each row of a
    table stands between `<|startoftext|>` and that token and a line break. Each array of an `.npz` is a stream of its
    own.

    Raises InputError if there is no file, or one cannot be read.
    """
    for part in read_files(dataset_path, reading):
        if isinstance(part, Path):
            yield from (TextPart(str(part), True, name=name) for name in array_names(part))
        else:
            yield part


def read_part(part: TextPart) -> list[Piece]:
    """The pieces of a part. Raises InputError if it is an array without token ids."""
    if part.name:
        return [read_ids(Path(part.path), part.name)]
    kind = str if part.literal else MarkedText
    pieces: list[Piece] = [None] if part.follows else []
    for _, row in part.rows:
        pieces += [kind(START_OF_TEXT + row), None, "\n"]
    return [*pieces, kind(part.text)]


def items(
    dataset_path: str, split: str, reading: Reading = DEFAULT_READING
) -> Iterator[tuple[str, str] | Note | Unusable]:
    """The name and the text of each plain file and of each row of a table."""
    everything: Iterator[Any] = read_files(dataset_path, reading)
    for path, group in itertools.groupby(everything, lambda part: getattr(part, "text", "") and part.path):
        if path:
            yield path, "".join(part.text for part in group)
            continue
        for part in group:
            if isinstance(part, Path):
                yield Unusable("token ids, no text", str(part))
            elif isinstance(part, TextPart):
                yield from ((f"{part.path}:{number}", START_OF_TEXT + row) for number, row in part.rows)
            else:
                yield part


def example(item: tuple[str, str]) -> Example:
    """A text as one completion without a prompt."""
    name, text = item
    return Example(name, "", (Turn("", (text,)),))


def read_files(dataset_path: str, reading: Reading) -> Iterator[TextPart | Note | Unusable | Path]:
    """The parts of all files but those of an `.npz`, whose paths come last."""
    begins, follows, specials = True, False, 0
    arrays = []
    for path in find_files(dataset_path):
        if isinstance(path, Unusable):
            yield path
        elif plain_suffix(path) == ".npz":
            arrays.append(path)
        elif is_table(path):
            for chunk in chunk_rows(read_table(path, reading)):
                if isinstance(chunk, Note):
                    yield chunk
                    continue
                specials += sum(row.count(END_OF_TEXT) for _, row in chunk)
                yield TextPart(str(path), begins, follows, rows=chunk, literal=reading.literal_specials)
                begins = follows = False
        else:
            if not Path(dataset_path).is_dir():  # in a folder, as one of code, it is a text like others
                check_no_json(path)
            try:
                for text in cut_text(read_plain(path, reading.encoding)):
                    specials += text.count(END_OF_TEXT)
                    yield TextPart(str(path), begins, follows, text, literal=reading.literal_specials)
                    begins = follows = False
                follows = True
            except Unusable as error:
                if str(path) == dataset_path:
                    fix = "save it as plain text (.txt), or give its `encoding` if it is one such as utf-16-le"
                    message = f"a {error.reason}: {fix}"
                    raise InputError(message, "data", path) from None
                yield error
    if specials:
        meaning = "letters" if reading.literal_specials else "the end-of-text token"
        yield Note(f"{dataset_path}: {specials:,} {END_OF_TEXT} in it, read as {meaning}")
    yield from arrays


def find_files(dataset_path: str) -> Iterator[Path | Unusable]:
    """The files of a data set in alphabetical order of their paths; Unusable for what is hidden or no file in a folder.

    Raises InputError if there are none.
    """
    root = Path(dataset_path)
    files, hidden = False, ""
    for path in map(Path, list_files(dataset_path)):
        below = path.relative_to(root).parts if root.is_dir() else ()
        first = next((number for number, name in enumerate(below, start=1) if name.startswith(".")), None)
        if first:
            name = str(Path(root, *below[:first]))
            if name != hidden:  # a hidden folder counts once
                yield Unusable("hidden file or folder", name)
            hidden = name
        elif path.is_file() or (path == root and is_stream(dataset_path)):
            files = True
            yield path
        elif not path.is_dir():
            yield Unusable("pipe, device or broken link", str(path))  # reading a pipe that nobody writes never ends
    if not files and not hidden:
        raise InputError("no such file: give a file, a folder or a glob", "data", dataset_path)


def check_no_json(path: Path) -> None:
    """Raises InputError for a `.json` of texts, pairs or chats, in an array or one per line: it is no running text."""
    if plain_suffix(path) != ".json":
        return
    first = next(read_blocks(path), b"")
    if ARRAY.match(first):
        fix = "write one value per line to a .jsonl, as jq -c '.[]' does, and give `task` jsonl for pairs and chats"
        raise InputError(f"a JSON array (name it .txt to learn its brackets and quotes): {fix}", "data", path)
    if begins_with_objects(first):
        fix = "give `task` jsonl for pairs and chats, or name it .jsonl to learn a column of texts"
        raise InputError(f"JSON lines (name it .txt to learn their brackets and quotes): {fix}", "data", path)


def begins_with_objects(head: bytes) -> bool:
    """Whether the first two lines of a file that are not blank are JSON objects.

    Example:
        >>> begins_with_objects(b'{"text": "a"}\\n{"text": "b"}\\n'), begins_with_objects(b'{\\n"text": "a"}\\n')
        (True, False)
    """
    codec = next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")
    lines = [line for line in head.decode(codec, "ignore").removeprefix("\ufeff").split("\n") if line.strip()][:2]
    try:
        return len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def read_plain(path: Path, encoding: str | None) -> Iterator[str]:
    """The text of a plain file, piece by piece. Raises Unusable for a binary file, InputError for broken text."""
    blocks = read_blocks(path)
    first = next(blocks, b"")
    if is_binary(first[:HEAD], encoding):
        raise Unusable(BINARY, str(path))
    yield from decode(itertools.chain([first], blocks), path, encoding, ENCODING_FIX)


def is_binary(head: bytes, encoding: str | None) -> bool:
    """Whether a file is no plain text, by its first bytes."""
    if head.startswith(tuple(MARKS)):
        return False
    text = head.decode(encoding or "utf-8", "ignore")
    return head.startswith(SIGNATURES) or "\0" in text or 20 * len(CONTROL.findall(text)) > len(text)


def cut_text(texts: Iterable[str]) -> Iterator[str]:
    """Joins pieces of a text into parts, each ending before a line break that stands between two words."""
    pending: list[str] = []
    size = 0
    last = ""  # two characters, which show whether a line break at their end stands between two words
    for text in texts:
        text = last + text
        while lone_break := LONE_BREAK.search(text, max(0, PART - size)):
            yield "".join([*pending, text[: lone_break.start()]])
            pending, size, text = [], 0, text[lone_break.start() :]
        pending.append(text[:-2])
        size, last = size + len(text) - len(text[-2:]), text[-2:]
    rest = "".join([*pending, last])
    if rest:
        yield rest


def chunk_rows(rows: Iterable[tuple[int, str] | Note]) -> Iterator[tuple[tuple[int, str], ...] | Note]:
    """Groups the rows of a table; the notes come between the groups."""
    for is_note, group in itertools.groupby(rows, lambda row: isinstance(row, Note)):
        if is_note:
            yield from group  # type: ignore[misc]
        while chunk := tuple(itertools.islice(group, ROWS)):
            yield chunk  # type: ignore[misc]
