"""Reading Parquet files row by row, with errors that name the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt_tf2.errors import InputError

ROWS = 256  # read at a time


def open_parquet(path: Path) -> Any:
    """Open a Parquet file. Raises InputError if it is none."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}): download it again") from None


def find_text_columns(file: Any) -> list[str]:
    """The names of an open file's columns of text, categorical ones included."""
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    return [field.name for field in file.schema_arrow if is_text(field.type)]


def iterate_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, with some of their columns. Raises InputError where it is damaged."""
    import pyarrow

    number = 0
    with open_parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=ROWS, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield row
        except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
            raise InputError(f"{path}: damaged after row {number} ({error}): download it again") from None
