"""Data in memory as a task: what it may be, and that it reads as the same data in files does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_tf2 import InputError, Tokenizer
from gpt_tf2.commands.find_task import choose_template
from gpt_tf2.data.dataset import Silent, Source, open_training_data
from gpt_tf2.tasks.chat_template import ChatTemplate
from gpt_tf2.tasks.in_memory import PLACE, make_task_in_memory
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import Task
from helpers.workplace import OPENAI_TINY, STORY

TOKENIZER = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
IDS = TOKENIZER.encode(STORY)
LINES = [f"{line} <|endoftext|>" for line in STORY.splitlines()]
PAIRS = [(f"The {n} lanterns", f" count {n * 7} boats") for n in range(20)]
OWN_TASK = f"""
from gpt_tf2.tasks.task import Example, Turn
SPLITS, STOP, NAMES, SUFFIX = ("train",), "", None, ".txt"
write = score = print
def items(path, split):
    return {PAIRS}
def example(pair):
    return Example("", "", (Turn(pair[0], (pair[1],)),))
"""


def read_batches(task: Task, path: str = PLACE) -> list[dict[str, np.ndarray]]:
    """The arrays of a task's first batches, and of those held out."""
    source = Source(task, path, TOKENIZER, in_memory=True)
    data = open_training_data(source, 32, 0.1, task.loss_on == "completion", Silent())
    training, held_out = data.make_batches(False)
    assert held_out is not None
    return [vars(batch) for batch in (*(training.batch(0, step, 2) for step in range(3)), *held_out.windows(2, 64))]


def are_equal(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> bool:
    """Whether batches have equal arrays."""
    return len(one) == len(other) and all(
        np.array_equal(batch[name], same[name]) for batch, same in zip(one, other, strict=True) for name in batch
    )


@pytest.mark.parametrize(
    ("data", "files"),
    [
        ([STORY], {"a.txt": STORY}),
        ((text for text in (STORY, "", "The end.")), {"a.txt": STORY, "b.txt": "", "c.txt": "The end."}),
        (LINES, {f"{number:03}.txt": line for number, line in enumerate(LINES)}),
        (IDS, {"a.txt": STORY}),
        (np.array(IDS), {"a.txt": STORY}),
    ],
)
def test_texts_and_ids_read_as_the_same_texts_in_files_do(data: Any, files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert are_equal(read_batches(make_task_in_memory(data)), read_batches(find_task("text"), str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_arrays_of_ids_are_streams_as_those_of_a_file_are(tmp_path: Path) -> None:
    rows = np.array(IDS[:1000]).reshape(2, 500)
    np.savez(tmp_path / "ids.npz", first=rows[0], second=rows[1])
    from_file = read_batches(find_task("text"), str(tmp_path / "ids.npz"))
    for data in (rows, [rows[0].tolist(), rows[1]]):
        assert are_equal(read_batches(make_task_in_memory(data)), from_file)


def test_pairs_are_examples_whose_completions_are_learned(tmp_path: Path) -> None:
    (tmp_path / "pairs.py").write_text(OWN_TASK)
    batches = read_batches(make_task_in_memory(map(list, PAIRS)))
    assert are_equal(batches, read_batches(find_task(str(tmp_path / "pairs.py")), str(tmp_path)))
    assert sum(batch["weights"].sum() for batch in batches) < sum((batch["segments"] > 0).sum() for batch in batches)
    assert list(tmp_path.iterdir()) == [tmp_path / "pairs.py"]


def test_end_of_text_in_a_text_is_letters_where_that_is_asked_for() -> None:
    tokens, literal = (read_batches(make_task_in_memory([LINES[0] * 50], literal)) for literal in (False, True))
    assert TOKENIZER.end_of_text in tokens[0]["tokens"] and TOKENIZER.end_of_text not in literal[0]["tokens"]


def test_a_data_set_of_tensorflow_is_read_like_a_list() -> None:
    from gpt_tf2.backend.starting import import_tensorflow_for_files

    make = import_tensorflow_for_files().data.Dataset.from_tensor_slices
    for values, data in ((LINES, LINES), (tuple(map(list, zip(*PAIRS, strict=True))), PAIRS)):
        assert are_equal(read_batches(make_task_in_memory(make(values))), read_batches(make_task_in_memory(data)))
    with pytest.raises(InputError, match=r"^data never ends: drop repeat\(\)"):
        make_task_in_memory(make(LINES).repeat())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "^data is int: give a path, or texts, "),
        ("One.", "^data is str: give a path, or texts, "),
        ({"text": "One."}, "^data is dict: give a path, or texts, "),
        ([], "^data is empty: give texts, "),
        ([1, 2.5], "^data: item 1 is int: give texts, "),
        ([{"prompt": "One"}], '^data: item 1: "completion" is missing, there is "prompt": add it, or rename'),
        ([{"prompt": "One", "completion": b"\xff"}], '^data: item 1: "completion" is .*, not text: write a text'),
        ([{5: "One"}], '^data: item 1: there is "5", but none of {"prompt", "completion"}, '),
        ([{"prompt": "One", "completion": "two"}, ("One", "two")], "^data: item 2 is of another kind than the first"),
        ([("One", "two", "three")], "^data: item 1 is tuple of 3: give texts, "),
        ([np.zeros((2, 2), "int32")], r"^data: item 1 is ndarray of int32, \[2, 2\]: give texts, "),
        ([b"caf\xe9"], "^data: item 1 is not UTF-8 text at byte 3: "),
        (["One.", ("Two", "three")], "^data: item 2 is of another kind than the first: give either texts, "),
        ([[5, 10_000]], "^data=in memory: ids 5 to 10000 in a vocabulary of "),
        ([("One", "")], "^data=in memory: no usable example in train .*a completion is empty: pair 1"),
        (["One."], "^data=in memory: the longest text to train on has "),
    ],
)
def test_data_of_another_kind_is_an_error(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_batches(make_task_in_memory(data))


def test_dictionaries_read_as_the_same_lines_in_a_file_do(tmp_path: Path) -> None:
    records: list[dict] = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]
    records += [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]}
        for prompt, completion in PAIRS
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    in_memory, in_file = make_task_in_memory(records), find_task("jsonl")
    assert in_memory.with_template and in_file.with_template
    template = ChatTemplate(("", "\n"), ("Q: ", "\n"), ("A: ", ""))
    read = read_batches(in_memory.with_template(template))
    assert are_equal(read, read_batches(in_file.with_template(template), str(tmp_path / "d.jsonl")))
    assert not are_equal(read, read_batches(make_task_in_memory(records)))


def test_a_chat_template_needs_data_with_messages() -> None:
    with pytest.raises(
        InputError, match=r"^chat_template=c\.json: does not apply to data without messages: leave it out$"
    ):
        choose_template(make_task_in_memory(PAIRS), "c.json", None)


@pytest.mark.parametrize("make", [lambda: iter(LINES), lambda: iter(PAIRS)])
def test_data_is_read_lazily_and_once(make: Callable) -> None:
    count = 0

    def values() -> Any:
        nonlocal count
        for value in make():
            count += 1
            yield value

    task = make_task_in_memory(values())
    assert count == 1
    read_batches(task)
    assert count == len(list(make()))
