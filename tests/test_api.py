"""The Python API's `finetune` and `evaluate`. Runs on either backend."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import pytest

import gpt_tf2
from gpt_tf2 import InputError, evaluate, finetune
from helpers import made_up
from helpers.processes import run_script

pytestmark = pytest.mark.usefixtures("without_graphs")

RUN: dict[str, Any] = {"model": "tiny", "epochs": 1, "steps": 2, "length": 32, "lr": 1e-3, "verbose": 0}
PAIRS = [(f"The {n} lanterns", f" count {n * 7} boats") for n in range(20)]


class Schedule(keras.callbacks.LearningRateScheduler):
    """A callback that finetune refuses under another name."""


def list_everything(folder: Path) -> dict[Path, int]:
    """All files and folders below a folder, with the times at which they changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_nothing_is_printed_or_written_without_output(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    before = list_everything(workplace)
    result = finetune(data=Path("story.txt"), callbacks=None, val_fraction=0.03, save_every=1, sample_every=1, **RUN)
    assert isinstance(result, gpt_tf2.FinetuneResult) and isinstance(result.model, gpt_tf2.GPT2)
    assert result.path is None
    scores = evaluate(data="story.txt", model="models/tiny", verbose=0)
    assert scores["text"]["story.txt"]["tokens"] > 1000
    assert list_everything(workplace) == before
    assert capsys.readouterr() == ("", "")


def test_the_streams_of_the_program_stay_its_own(workplace: Path) -> None:
    streams, seen = (sys.stdout, sys.stderr), []

    def texts() -> Iterator[str]:
        for _ in range(2):  # the second is read while the data is prepared
            seen.append((sys.stdout, sys.stderr))
            yield Path("story.txt").read_text()

    finetune(texts(), **RUN)
    assert seen == [streams, streams]


@pytest.mark.slow
def test_a_program_prints_nothing_of_its_libraries(workplace: Path) -> None:
    script = workplace / "program.py"
    script.write_text(f"import gpt_tf2\ngpt_tf2.finetune('story.txt', **{RUN})\n")
    done = run_script(str(script), folder=workplace)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_examples_from_files_are_prepared_nowhere_without_output(data_sets: Path) -> None:
    made_up.write_model(Path("models/tiny"), 256)
    before = list_everything(data_sets)
    finetune(data="cnndm", task="cnndm", **{**RUN, "length": 256})
    assert list_everything(data_sets) == before


def test_progress_is_shown_and_files_are_written_with_output(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    result = finetune("story.txt", output="m.h5", **{**RUN, "verbose": 1})
    assert result.path == Path("output/m.h5") and result.path.is_file()
    assert "step 2/2" in capsys.readouterr().out
    evaluate("story.txt", model=result.path, output="scores.txt")
    assert Path("scores.scores.json").is_file() and "perplexity" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_data_in_memory_resumes_on_the_same_data_only(workplace: Path) -> None:
    begun = finetune(PAIRS, output="m.h5", **RUN)
    with pytest.raises(InputError, match="the text of data has changed since the run began"):
        finetune(PAIRS[1:], output="m.h5", resume=True, **RUN)
    resumed = finetune(iter(PAIRS), output="m.h5", resume=True, **{**RUN, "epochs": 2})
    assert resumed.history["loss"][:1] == begun.history["loss"] and len(resumed.history["loss"]) == 2
    assert sorted(path.name for path in workplace.iterdir()) == ["models", "output", "story.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data is required"),
        ({"data": "Once upon a time"}, r"data=Once upon a time: no such file: give a path, or \[text\]"),
        ({"data": "Once\0" * 2000}, "data=Once.*: use a text without NUL"),
        ({"data": 5}, "data is int: give a path, or texts, "),
        ({"data": ["One."], "task": "coqa"}, "task=coqa: does not apply to data in memory: leave it out"),
        ({"data": ["One."], "cache": "kept"}, "cache=kept: does not apply to data in memory: leave it out"),
        ({"data": "story.txt", "resume": True}, "resume=True: needs the output to continue: give it"),
        ({"data": "story.txt", "callbacks": ["stop"]}, "callbacks has a str in it: give those of keras.callbacks"),
        (
            {"data": "story.txt", "callbacks": keras.callbacks.ReduceLROnPlateau()},
            "callbacks has a ReduceLROnPlateau in it, which needs Keras's own fit: set lr_schedule",
        ),
        ({"data": "story.txt", "callbacks": [Schedule(lambda epoch: 0.1)]}, "has a LearningRateScheduler .*: set lr_"),
        (
            {"data": "story.txt", "callbacks": [keras.callbacks.BackupAndRestore("b")]},
            "callbacks has a BackupAndRestore .*: give output, and resume to continue",
        ),
        ({"data": ["", ""], "length": 32}, "data=in memory: no text in it: give texts that are not empty"),
        ({"data": "story.txt", "learning_rate": 1}, "unknown setting learning_rate"),
        ({"data": "story.txt", "step": 1}, "unknown setting step: did you mean steps?"),
        ({"data": "story.txt", "dataset_path": "story.txt"}, "dataset_path and data are two names of one setting"),
    ],
)
def test_what_is_wrong_is_an_error_that_names_the_parameter(settings: dict, message: str, workplace: Path) -> None:
    before = list_everything(workplace)
    with pytest.raises(InputError, match=message):
        finetune(**settings, model="tiny")
    assert list_everything(workplace) == before


def test_older_names_of_settings_are_accepted(workplace: Path) -> None:
    old = {"dataset_path": "story.txt", "model": "tiny", "num_epoch": 1, "steps_per_epoch": 2, "base_lr": 0.25}
    assert finetune(**old, length=32, verbose=0).history["lr"] == [0.25]


def test_dir_lists_the_public_names() -> None:
    assert set(gpt_tf2.__all__) <= set(dir(gpt_tf2)) and "__name__" in dir(gpt_tf2)


def test_running_text_is_scored_by_the_graph_whatever_would_generate(workplace: Path) -> None:
    Path("t.txt").write_text(Path("story.txt").read_text()[:300])
    exact, rounded = (
        evaluate("t.txt", model="tiny", precision=precision, verbose=0)["text"]["t.txt"]["perplexity per token"]
        for precision in ("auto", "bfloat16")
    )
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.05)
    for settings in ({"engine": "litert"}, {"quantize": "int8"}):
        with pytest.raises(InputError, match="running text is scored by the Keras graph: leave it out"):
            evaluate("t.txt", model="tiny", **settings)


@pytest.mark.parametrize(("function", "name"), [(finetune, "lora_rank"), (evaluate, "top_k")])
def test_help_lists_all_settings_with_their_defaults(function: Callable, name: str) -> None:
    parameters = inspect.signature(function).parameters
    assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY and parameters["data"].default is inspect._empty
    assert (parameters["model"].default, parameters["verbose"].default) == ("124M", 1)
    assert not [each for each in parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD]
    assert re.match(r"(Fine-tunes|Scores) a model", inspect.getdoc(function) or "")
