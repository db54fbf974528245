"""Damaged data sets of every kind: examples, or one line that names the file; never a traceback."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gpt_tf2 import InputError
from gpt_tf2.tasks.cnndm import story_path
from gpt_tf2.tasks.examples import Skipped, read_examples
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import Reading
from helpers.made_up import make_conversation, make_story
from helpers.markers import skip_on_jax

pytestmark = skip_on_jax

URL = "http://www.cnn.com/made-up/1"
# Pieces that mean something to a reader, and bytes that mean nothing.
PIECES = (
    *(b'"', b"\0", b"\r", b"\n", b",", b";", b"\t", b"{", b"]", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xf0"),
    *(
        "\u2028".encode(),
        b"<|endoftext|>",
        b"9" * 5000,
        b"[" * 3000,
        b"By ",
        b"UPDATED: 1:11 ",
        b"(CNN) --",
        b"@highlight",
    ),
)
ENCODINGS = (None, None, None, "cp1252", "gbk", "utf-16", "utf-16-le", "utf-7", "shift_jis", "latin-1")


def write_parquet(path: Path, article: str, highlight: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"article": [article] * 3, "highlights": [highlight] * 3}), path)


def make_inputs(folder: Path) -> dict[str, tuple[str, Path]]:
    """Whole data sets, by the file to damage: its task, and the path of the data."""
    draw = random.Random(0)
    article, highlight = make_story(draw)
    table = "text,label\n" + "".join(f'"{article}, ""so""",{n}\n' for n in range(3))
    (folder / "a.txt").write_text(article)
    (folder / "a.csv").write_text(table)
    (folder / "a.tsv").write_text(table.replace(",", "\t"))
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": n, "text": article}) + "\n" for n in range(3)))
    (folder / "a.csv.gz").write_bytes(gzip.compress(table.encode()))
    write_parquet(folder / "a.parquet", article, highlight)
    write_parquet(folder / "train.parquet", article, highlight)
    row = f'"{article}","{highlight}\n{highlight}"\n'
    (folder / "stories.csv").write_text(f"article,highlights\n{row * 3}")
    story = folder / "stories" / story_path(URL)
    story.parent.mkdir(parents=True)
    story.write_text(f"By\nJane Doe\n{article}\n\n@highlight\n\n{highlight}")
    (folder / "stories" / "url_lists").mkdir()
    (folder / "stories" / "url_lists" / "all_train.txt").write_text(URL + "\n")
    (folder / "coqa-train-v1.0.json").write_text(json.dumps({"data": [make_conversation(draw, "a")]}))
    records: list[dict] = [{"prompt": article, "completion": highlight}, {"instruction": "a", "output": "b"}]
    records.append({"messages": [{"role": role, "content": role} for role in ("system", "user", "assistant")]})
    records.append({"conversations": [{"from": role, "value": role} for role in ("human", "gpt")], "system": "a"})
    records.append(
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    )
    (folder / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    texts = {name: ("text", folder / name) for name in ("a.txt", "a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.parquet")}
    return {
        **texts,
        "chats.jsonl": ("jsonl", folder / "chats.jsonl"),
        "train.parquet": ("cnndm", folder / "train.parquet"),
        "stories.csv": ("cnndm", folder / "stories.csv"),
        str(story.relative_to(folder)): ("cnndm", folder / "stories"),
        "coqa-train-v1.0.json": ("coqa", folder),
    }


def damage(content: bytes, draw: random.Random) -> bytes:
    """Changes a few bytes, or cuts or repeats a part."""
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        place = draw.randrange(len(damaged) + 1)
        acts: list[Callable[[], object]] = [
            lambda place=place: damaged.__setitem__(slice(place, place + 1), bytes([draw.randrange(256)])),
            lambda place=place: damaged.__delitem__(slice(place, place + draw.randrange(50))),
            lambda place=place: damaged.__setitem__(slice(place, place), draw.choice(PIECES)),
            lambda place=place: damaged.__setitem__(slice(place, place), draw.randbytes(20)),
            lambda place=place: damaged.extend(damaged[:place]),
            lambda place=place: damaged.__delitem__(slice(place, None)),
        ]
        draw.choice(acts)()
    return bytes(damaged)


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_data_is_read_or_refused_in_one_line(count: int, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in inputs}
    draw = random.Random(count)
    read = refused = 0
    for _ in range(count):
        name = draw.choice(list(inputs))
        loader, path = inputs[name]
        (tmp_path / name).write_bytes(damage(whole[name], draw))
        highlights = draw.choice(["one", "all"]) if loader == "cnndm" else "one"
        task = find_task(loader, Reading(encoding=draw.choice(ENCODINGS), highlights=highlights))
        skipped = Skipped()
        try:
            read += len(list(read_examples(task, str(path), "train", skipped)))
            for part in skipped.take_out(task.running_text.parts(str(path))) if task.running_text else ():
                task.running_text.read(part)
        except InputError as error:
            refused += 1
            assert str(tmp_path) in str(error), error
        finally:
            (tmp_path / name).write_bytes(whole[name])
    assert read > 0 and refused > 0
