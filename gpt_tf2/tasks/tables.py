"""Tables of texts: `.csv`, `.tsv`, `.jsonl` and `.parquet`, one column of which is read."""

import csv
import itertools
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gpt_tf2.errors import InputError
from gpt_tf2.storage.json_text import parse_json
from gpt_tf2.storage.text_files import ENCODING_FIX, decode, plain_suffix, read_blocks
from gpt_tf2.tasks.parquet import find_text_columns, iterate_rows, open_parquet
from gpt_tf2.tasks.task import Note, Reading

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
TEXT = "text"  # the column of a .jsonl or .parquet, if there is one
READ_PAIRS = "give `task` jsonl"
# Columns that belong together: what a table with them holds, and the setting that reads all of them in a .jsonl.
FORMS = {
    ("chosen", "rejected"): ("preferences", "give `task` preferences, to train with `objective` dpo"),
    ("prompt", "completion"): ("pairs", READ_PAIRS),
    ("instruction", "output"): ("pairs", READ_PAIRS),
    ("messages",): ("chats", READ_PAIRS),
    ("conversations",): ("chats", READ_PAIRS),
}
csv.field_size_limit(2**31 - 1)
NO_DELIMITER = "\U0010ffff"  # never a character: what separates the cells of a single column
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", NO_DELIMITER: "noncharacter"}
SAMPLE = 200  # lines of a .csv that its form is decided by
# A column's name: up to three words, no sentence. A file of prose has no header.
COLUMN_NAME = re.compile(r"[^\W\d][\w\-./#():]*(?: [\w\-./#():]+){0,2}(?<!\.)")
Row = tuple[int, str]  # a row's number, from 1, and its text


class Form(NamedTuple):
    """How a `.csv` is written. header: the names of the columns, if the first row has them."""

    delimiter: str
    header: list[str] | None
    width: int


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name, compressed or not."""
    return plain_suffix(path) in SUFFIXES


def read_table(path: Path, reading: Reading) -> Iterator[Row | Note]:
    """Yield the rows of a table that have a text, with their numbers, then a note on how it was read.

    Raises InputError if the file cannot be read, or has no such column.
    """
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        return read_parquet(path, reading)
    lines = split_lines(decode(read_blocks(path), path, reading.encoding, ENCODING_FIX))
    return read_jsonl(lines, path, reading) if suffix == ".jsonl" else read_csv(lines, path, reading)


def split_lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a text that comes in pieces, each with its line feed."""
    pending: list[str] = []
    for text in texts:
        *lines, last = text.split("\n")
        if lines:
            yield "".join([*pending, lines[0], "\n"])
            yield from (line + "\n" for line in lines[1:])
            pending = []
        pending.append(last)
    if rest := "".join(pending):
        yield rest


def read_csv(lines: Iterator[str], path: Path, reading: Reading) -> Iterator[Row | Note]:
    """Yield the rows of a `.csv` or `.tsv`; see `read_table`."""
    sample = list(itertools.islice(lines, SAMPLE))
    form = detect_form(sample, plain_suffix(path) == ".tsv", reading.column)
    rows = read_rows(itertools.chain(sample, lines), form.delimiter, path)
    if form.header:
        next(rows)
    names = form.header or [str(number + 1) for number in range(form.width)]
    if not reading.column and names[0] != TEXT:
        check_no_forms(names, path)
    column = find_column(reading.column, names, path) if reading.column else 0
    used = empty = wider = 0
    for number, row in enumerate(rows, start=1):
        wider += len(row) > form.width
        text = row[column] if column < len(row) else ""
        if text.strip():
            used += 1
            yield number, text
        else:
            empty += 1
    columns = f"{DELIMITERS[form.delimiter]}-separated, {form.width} columns" if form.width > 1 else "1 column"
    header = f"header {', '.join(names)}" if form.header else "no header"
    extra = f", {wider:,} with more cells than the first row" if wider else ""
    yield Note(f"{path}: {columns}, {header}: {count_rows(used, names[column], empty)}{extra}")


def count_rows(used: int, column: str, empty: int) -> str:
    """What was read of a table, for people."""
    return f"{used:,} rows of column {column} used, {empty:,} empty"


def find_column(column: str, names: Sequence[str], path: Path) -> int:
    """The index of a column by its name or its number, from 1. Raises InputError if there is none."""
    if column in names:
        return names.index(column)
    if column.isdecimal() and 0 < int(column) <= len(names):
        return int(column) - 1
    raise InputError(f"not in {path}, whose columns are {', '.join(names)}: use one of them", "column", column)


def read_rows(lines: Iterable[str], delimiter: str, path: Path) -> Iterator[list[str]]:
    """Yield the rows of a `.csv` that are not blank. Raises InputError for a quote that is not closed."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            message = f"the row that begins here is not CSV ({error}): close its quote, or double a quote within quotes"
            raise InputError(message, "data", f"{path}:{first}") from None
        if row:
            yield row


def detect_form(sample: list[str], tabs: bool, column: str | None) -> Form:
    """How a `.csv` is written, by its first lines. A row with the name of the column asked for is a header."""
    delimiter = "\t" if tabs else detect_delimiter(sample)
    first, *others = split_sample(sample, delimiter) or [[""]]
    names = [cell.strip() for cell in first]
    return Form(delimiter, names if column in names or is_header(names, others) else None, len(names))


def detect_delimiter(sample: list[str]) -> str:
    """The comma, unless another delimiter separates all rows alike, or the commas are those of prose."""
    for delimiter in ";\t|":  # before the comma, which may be in every row, as in 1,5
        if is_even(split_sample(sample, delimiter)):
            return delimiter
    return NO_DELIMITER if is_prose(sample, split_sample(sample, ",")) else ","


def split_sample(sample: list[str], delimiter: str) -> list[list[str]]:
    """The rows of the first lines that are not blank."""
    # Python 3.10 refuses NUL.
    return [row for row in csv.reader((line.replace("\0", "") for line in sample), delimiter=delimiter) if row]


def is_even(rows: list[list[str]]) -> bool:
    """Whether nearly all rows have as many cells as the first, more than one."""
    return bool(rows) and len(rows[0]) > 1 and sum(len(row) == len(rows[0]) for row in rows) >= 0.9 * len(rows)


def is_prose(sample: list[str], rows: list[list[str]]) -> bool:
    """Whether a space follows each comma, as in sentences, and the first row does not name columns."""
    commas = sum(line.count(",") for line in sample)
    spaced = sum(line.count(", ") + line.endswith(",\n") for line in sample)
    return commas == spaced and not (len(rows[0]) > 1 and is_header(rows[0], rows[1:])) if rows else True


def is_header(first: Sequence[str], others: Sequence[list[str]]) -> bool:
    """Whether a row names columns: its cells are names, and neither occur again below nor read like the texts there."""
    cells = [cell.strip() for cell in first]
    named = [cell for cell in cells if cell]  # the first may be empty, over an index
    if not named or len(set(named)) < len(named) or not all(COLUMN_NAME.fullmatch(cell) for cell in named):
        return False
    for number, cell in enumerate(cells):
        below = [row[number].strip() for row in others if number < len(row)]
        if cell and cell in below:
            return False
        if " " in cell and below and 2 * len(cell.split()) > statistics.median(len(text.split()) for text in below):
            return False
    return True


def read_jsonl(lines: Iterable[str], path: Path, reading: Reading) -> Iterator[Row | Note]:
    """Yield the rows of a `.jsonl`, objects or plain strings; see `read_table`."""
    column, used, empty = reading.column, 0, 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        value = parse_json(line, str(path), "write one value per line", number)
        if isinstance(value, dict):
            if not used + empty:  # the first object decides
                texts = [name for name, cell in value.items() if isinstance(cell, str)]
                if reading.column is None and TEXT not in texts:
                    check_no_forms(list(value), path)
                names = texts if reading.column is None else list(value)
                column = choose_column(reading.column, names, path)
            value = value.get(column)
        if isinstance(value, str) and value.strip():
            used += 1
            yield number, value
        else:
            empty += 1
    yield Note(f"{path}: {count_rows(used, str(column or TEXT), empty)}")


def read_parquet(path: Path, reading: Reading) -> Iterator[Row | Note]:
    """Yield the rows of a `.parquet`; see `read_table`."""
    with open_parquet(path) as file:
        texts = find_text_columns(file)
        if reading.column is None and TEXT not in texts:
            check_no_forms(file.schema_arrow.names, path)
        column = choose_column(reading.column, texts, path)
    used = empty = 0
    for number, row in enumerate(iterate_rows(path, [column]), start=1):
        if (row[column] or "").strip():
            used += 1
            yield number, row[column]
        else:
            empty += 1
    yield Note(f"{path}: {count_rows(used, column, empty)}")


def check_no_forms(names: Sequence[str], path: Path) -> None:
    """Raises InputError if the columns are those of pairs, chats or preferences, of which none was asked for."""
    for columns, (kind, fix) in FORMS.items():
        if set(columns) <= set(names):
            fix = fix if plain_suffix(path) == ".jsonl" else f"write it as JSON lines and {fix}"
            message = f"looks like {kind} ({', '.join(columns)}): {fix}, or name the text's `column`"
            raise InputError(message, "data", path)


def choose_column(column: str | None, names: Sequence[str], path: Path) -> str:
    """The name of the column asked for; by default `text`, or the first. Raises InputError if there is none."""
    if column is None and not names:
        raise InputError("no column of text: give a table with one", "data", path)
    if column is None:
        return TEXT if TEXT in names else names[0]
    return names[find_column(column, names, path)]
