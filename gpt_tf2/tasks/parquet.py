"""Reading Parquet files row by row, with errors that name the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt_tf2.storage.damage import check_expansion, explain_damage

ROWS = 256  # read at a time
FIX = "download it again"


def open_parquet(path: Path) -> Any:
    """Open a Parquet file. Raises InputError if it is none, or declares far more bytes than it has."""
    import pyarrow.parquet

    with explain_damage(f"{path}: not a readable Parquet file", FIX):
        file = pyarrow.parquet.ParquetFile(path)
        groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
        check_expansion(path, sum(group.total_byte_size for group in groups), FIX)
    return file


def find_text_columns(file: Any) -> list[str]:
    """The names of an open file's columns of text, categorical ones included."""
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    return [field.name for field in file.schema_arrow if is_text(field.type)]


def iterate_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, with some of their columns. Raises InputError where it is damaged."""
    number = 0
    with open_parquet(path) as file:
        batches = file.iter_batches(batch_size=ROWS, columns=list(columns))
        while True:
            with explain_damage(f"{path}: damaged after row {number}", FIX):
                batch = next(batches, None)
                rows = [] if batch is None else batch.to_pylist()
            if batch is None:
                return
            for row in rows:
                number += 1
                yield row
