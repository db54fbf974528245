"""`history.jsonl`: a line for each thing that a run reports, whatever happens to the run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gpt_tf2.commands.progress import TrainingDisplay
from gpt_tf2.training.loggers.history_file import HISTORY
from gpt_tf2.training.loggers.logger import LoggedRun
from gpt_tf2.training.monitor import Monitor

SETTINGS = {"lr": 0.1, "data": "story.txt"}


def train(path: Path, first: int, last: int, is_resumed: bool = False, error: type[Exception] | None = None) -> None:
    """Reports steps as a run does, a validation after each third of them, and a sample at the end."""
    run = LoggedRun("m", SETTINGS, None, is_resumed, first - 1)
    with TrainingDisplay(9, first - 1, shown=False) as display, Monitor(9, display) as monitor:
        monitor.keep_history(path, run)
        for step in range(first, last + 1):
            monitor.step(step, loss=9 / step, learning_rate=0.1, tokens=8)
            if step % 3 == 0:
                monitor.validated(step, 10 / step)
        monitor.sampled(last, "The tide\n“é”")
        if error:
            raise error


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_history_has_the_run_its_figures_its_samples_and_its_end(tmp_path: Path) -> None:
    train(tmp_path / HISTORY, 1, 3)
    begin, *lines, sample, end = read(tmp_path / HISTORY)
    assert (begin["run"], begin["steps"], begin["settings"], begin["step"]) == ("m", 9, SETTINGS, 0)
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    assert [line["loss/training"] for line in lines[:3]] == [9, 4.5, 3]
    assert lines[3]["loss/validation"] == 3.33333 and lines[0]["learning_rate"] == 0.1
    assert lines[0].keys().isdisjoint(["tokens_per_second"]) and lines[1]["tokens_per_second"] > 0
    assert 0.01 < lines[0]["peak_memory_gb"] < 1000
    assert sample["sample"] == "The tide\n“é”" and (end["end"], end["step"]) == ("complete", 3)
    times = [line["time"] for line in (begin, *lines, sample, end)]
    assert times == sorted(times)


def test_each_line_is_there_once_it_is_reported(tmp_path: Path) -> None:
    with TrainingDisplay(9, 0, shown=False) as display, Monitor(9, display) as monitor:
        monitor.keep_history(tmp_path / HISTORY, LoggedRun("m", {}))
        monitor.step(1, 2.0, 0.1, 8)
        assert [line["step"] for line in read(tmp_path / HISTORY)] == [0, 1]


def test_a_run_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        train(tmp_path / HISTORY, 1, 2, error=ArithmeticError)
    assert read(tmp_path / HISTORY)[-1]["end"] == "failed"


def test_a_resumed_run_goes_on_without_the_steps_that_it_repeats_and_what_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    train(path, 1, 5)
    path.write_bytes(path.read_bytes() + b'\xff\n[1]\n{"step": 2, "loss/tra')
    train(path, 5, 6, is_resumed=True)  # the last save was after step 4
    lines = read(path)
    losses = [(line["step"], line["loss/training"]) for line in lines if "loss/training" in line]
    assert losses == [(1, 9), (2, 4.5), (3, 3), (4, 2.25), (5, 1.8), (6, 1.5)]
    assert [line["step"] for line in lines if "run" in line] == [0, 4]
    assert [line["step"] for line in lines if "sample" in line] == [6]
    train(path, 1, 1)
    assert [line["step"] for line in read(path) if "loss/training" in line] == [1]  # a new run


def test_what_is_not_finite_is_json_all_the_same(tmp_path: Path) -> None:
    with TrainingDisplay(9, 0, shown=False) as display, Monitor(9, display) as monitor:
        monitor.keep_history(tmp_path / HISTORY, LoggedRun("m", {"clip_norm": float("inf")}))
        monitor.validated(0, float("nan"))
    text = (tmp_path / HISTORY).read_text()
    assert '"loss/validation": null' in text and '"clip_norm": "inf"' in text
    assert not re.search(r"\bNaN\b|\bInfinity\b", text)


def test_training_goes_on_without_a_history_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / HISTORY).mkdir()
    with TrainingDisplay(9, 0) as display, Monitor(9, display) as monitor:
        monitor.keep_history(tmp_path / HISTORY, LoggedRun("m", {}))
        monitor.step(1, 2.0, 0.1, 8)
    out = capsys.readouterr().out
    assert "history.jsonl: cannot be written (" in out and "training goes on without it" in out and "step 1/9" in out
