"""Where the figures of a run are kept. The trackers run without a server; `make test-all` installs them."""

import html
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt_tf2 import InputError
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.progress import TrainingDisplay
from gpt_tf2.training.loggers.logger import LoggedRun
from gpt_tf2.training.loggers.opening import TRACKERS, is_installed
from gpt_tf2.training.monitor import Monitor
from helpers.finetuning import FLAGS
from helpers.trackers import read_mlflow, read_trackio, read_wandb
from helpers.workplace import list_names

SAMPLE = "The tide <b>\n# is | `out`"
SHORT = [*FLAGS, "--num_epoch=1", "--steps_per_epoch=2", "--val_fraction=0"]


@pytest.fixture
def without_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the trackers keep what they are given."""
    variables = {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(tmp_path),
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it would keep its folder


def log(tracker: str, folder: Path, first: int, is_resumed: bool) -> LoggedRun:
    """Logs two steps, a validation and a sample."""
    run = LoggedRun(f"of-{tracker}", {"lr": 0.001, "data": "story.txt"}, folder, is_resumed)
    with TrainingDisplay(9, 0, shown=False) as display, Monitor(9, display) as monitor:
        monitor.open_logs([tracker], run)
        for step in (first, first + 1):
            monitor.step(step, loss=step / 2, learning_rate=0.1, tokens=8)
        monitor.validated(first + 1, 0.25)
        monitor.sampled(first + 1, SAMPLE)
        assert monitor.logs
    return run


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_keeps_the_settings_the_figures_and_the_samples(tracker: str, without_servers: Path) -> None:
    pytest.importorskip(tracker)
    log(tracker, without_servers, 1, is_resumed=False)
    run = log(tracker, without_servers, 3, is_resumed=True)
    if tracker == "wandb":
        settings, values = read_wandb(without_servers)
        shown = f"<pre>{html.escape(SAMPLE)}</pre>"
        assert all(shown in page for page in values["sample"].values())
    elif tracker == "mlflow":
        settings, values = read_mlflow(str(run.read_id("mlflow")))
        assert set(values["sample"].values()) == {SAMPLE}
    else:
        settings, values = read_trackio(run.name)
        assert set(values["sample"].values()) == {"    The tide <b>\n    # is | `out`\n"}
    assert {name: str(settings[name]) for name in run.settings} == {"lr": "0.001", "data": "story.txt"}
    assert values["loss/training"] == {1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}  # of both processes, in one run
    assert values["loss/validation"] == {2: 0.25, 4: 0.25} and values["sample"].keys() == {2, 4}
    assert values["learning_rate"].keys() == {1, 2, 3, 4} and values["tokens_per_second"].keys() == {2, 4}


def test_a_new_run_of_the_same_name_is_another_run(without_servers: Path) -> None:
    pytest.importorskip("mlflow")
    ids = set()
    for _ in range(2):
        log("mlflow", without_servers, 1, is_resumed=False)
        ids.add((without_servers / "mlflow.id").read_text())
    assert len(ids) == 2


def test_tensorboard_has_the_settings_and_the_samples(tmp_path: Path) -> None:
    log("tensorboard", tmp_path, 1, is_resumed=False)
    logs = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    logs.Reload()
    (settings,), (sample,) = logs.Tensors("settings"), logs.Tensors("sample")
    assert settings.tensor_proto.string_val[0].decode() == "    lr = 0.001\n    data = story.txt\n"
    assert sample.tensor_proto.string_val[0].decode() == "    The tide <b>\n    # is | `out`\n" and sample.step == 2


@pytest.mark.slow
def test_a_run_logs_where_it_is_told_to(workplace: Path, without_servers: Path, capfd: pytest.CaptureFixture) -> None:
    for tracker in TRACKERS:
        pytest.importorskip(tracker)
    flags = [*SHORT, "--sample_every=2", f"--log_to={','.join(TRACKERS)}"]
    assert main(["finetune", *flags]) == 0
    ids = [Path(f"output/m/logs/{tracker}.id").read_text().strip() for tracker in ("wandb", "mlflow")]
    assert main(["finetune", *flags, "--num_epoch=2", "--resume"]) == 0
    assert ids == [Path(f"output/m/logs/{tracker}.id").read_text().strip() for tracker in ("wandb", "mlflow")]
    for settings, values in (read_wandb(workplace), read_mlflow(ids[1]), read_trackio("m")):
        assert values["loss/training"].keys() == {1, 2, 3, 4} and values["sample"].keys() == {2, 4}
        assert str(settings["batch_size"]) == "2"
    assert not list(Path("output/m/logs").glob("events.*"))
    out, err = capfd.readouterr()
    assert "trackio" not in out.lower() and "Trackio" in err


def test_a_missing_package_is_said_before_anything_begins(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as Python itself marks a package that cannot be imported
    before = list_names(workplace)
    assert main(["finetune", *SHORT, "--log_to=tensorboard,wandb"]) == 2
    expected = "--log_to wandb: wandb is not installed: pip install wandb, or drop it\n"
    assert capsys.readouterr().err.endswith(expected) and list_names(workplace) == before


def test_the_folder_that_wandb_leaves_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracker_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("tracker_of_nobody") and is_installed("pytest")


def test_a_tracker_that_refuses_ends_the_run_before_its_first_step(
    without_servers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    with pytest.raises(InputError, match=r"log_to=mlflow: cannot begin a run \(.*nowhere.*\): fix that, or drop it"):
        log("mlflow", without_servers, 1, is_resumed=False)


class Failing:
    """A logger whose server has gone."""

    name = "tracker"

    def log(self, values: Mapping[str, float], step: int) -> None:
        raise ConnectionError(111, "Connection refused")

    def log_text(self, name: str, text: str, step: int) -> None:
        raise AssertionError("is dropped before")

    def close(self, is_complete: bool) -> None:
        raise ConnectionError(111, "Connection refused")


def test_training_goes_on_without_a_tracker_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with TrainingDisplay(9, 0) as display, Monitor(9, display) as monitor:
        monitor.open_logs(["tensorboard"], LoggedRun("m", {}, tmp_path))
        monitor.logs.insert(0, Failing())
        for step in (1, 2):
            monitor.step(step, 0.5, 0.1, 8)
        monitor.sampled(2, SAMPLE)
    out = capsys.readouterr().out
    assert out.count("tracker: cannot be written (Connection refused): training goes on without these logs\n") == 1
    logs = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    logs.Reload()
    assert len(logs.Tensors("loss/training")) == 2


@pytest.mark.parametrize("given", ["tensorbord", "none,wandb", ["mlflow", ""]])
def test_other_loggers_are_refused(given: Any) -> None:
    log_to = tuple(given.split(",")) if isinstance(given, str) else tuple(given)
    with pytest.raises(InputError, match=r"log_to=.*: use some of tensorboard, wandb, mlflow, trackio, or none alone"):
        FinetuneSettings(data="story.txt", log_to=log_to)


def test_each_logger_is_used_once_and_none_is_none() -> None:
    assert FinetuneSettings(data="story.txt", log_to=("wandb", "mlflow", "wandb")).loggers() == ["wandb", "mlflow"]
    assert FinetuneSettings(data="story.txt", log_to=("none",)).loggers() == []
