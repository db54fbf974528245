"""Parquet files whose values Python cannot hold, or that expand a thousandfold."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from gpt_tf2 import InputError
from gpt_tf2.tasks.examples import Skipped, read_examples
from gpt_tf2.tasks.lookup import find_task


def not_utf8() -> pa.Array:
    binary = pa.array([b"The \xff tide.", b"Boats."], pa.binary())
    return pa.StringArray.from_buffers(2, *binary.buffers()[1:])


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "text that is not UTF-8": ({"article": not_utf8()}, "train.parquet: damaged after row 0"),
    "a bomb": (
        {"article": pa.array(["a" * 70_000_000, "b"])},
        r"train.parquet: 70,000,\d\d\d bytes of data in a file of",
    ),
}


def test_ids_that_are_no_text_are_not_read(tmp_path: Path) -> None:
    columns = {
        "article": ["The tide."],
        "highlights": ["Tide ."],
        "id": pa.array([2**30], pa.int32()).view(pa.date32()),
    }
    pa.parquet.write_table(pa.table(columns), tmp_path / "train.parquet")
    ((_, example),) = read_examples(find_task("cnndm"), str(tmp_path), "train", Skipped())
    assert example.id == f"{tmp_path / 'train.parquet'}:1"


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    columns, words = CASES[name]
    table = pa.table({"article": ["The tide.", "Boats."], "highlights": ["Tide .", "Boats ."]} | columns)
    pa.parquet.write_table(table, tmp_path / "train.parquet", compression="zstd")
    with pytest.raises(InputError, match=f"{words}.*: download it again"):
        list(read_examples(find_task("cnndm"), str(tmp_path), "train", Skipped()))
