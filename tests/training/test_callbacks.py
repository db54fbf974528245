"""Keras's callbacks on a run, and its history. Runs on either backend."""

import csv
import itertools
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from gpt_tf2 import finetune, load_model
from gpt_tf2.api import FinetuneResult
from gpt_tf2.training.callbacks import summarize_epochs
from gpt_tf2.training.state import History
from helpers.finetuning import SETTINGS, are_identical, read_hdf5, read_weights
from helpers.workplace import fill_workplace

pytestmark = pytest.mark.usefixtures("without_graphs")  # JAX compiles these runs

RUN: dict[str, Any] = {
    "data": "story.txt",
    "model": "tiny",
    "epochs": 2,
    "steps": 3,
    "length": SETTINGS.length,
    "batch_size": 2,
    "val_fraction": 0.03,
    "lr": 1e-3,
    "verbose": 0,
}


class Recorder(keras.callbacks.Callback):
    """Notes the hooks that are called, and the weights that they see."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.losses: list[float] = []
        self.weights: list[np.ndarray] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.calls.append(f"begin {self.params['epochs']}x{self.params['steps']}")

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.calls.append(f"epoch {epoch}")

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.calls.append(f"step {batch}")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.losses.append((logs or {})["loss"])
        self.weights.append(np.array(self.model.get_weights()[0]))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.calls.append(f"end {epoch} {sorted(logs or {})}")

    def on_train_end(self, logs: dict | None = None) -> None:
        self.calls.append("end")


class SetWeights(keras.callbacks.Callback):
    """Sets all weights to a number when training ends."""

    def on_train_end(self, logs: dict | None = None) -> None:
        self.model.set_weights([np.full(weight.shape, 0.25) for weight in self.model.get_weights()])


class StopAtStep(keras.callbacks.Callback):
    """Stops the run at the end of an epoch's second step."""

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.model.stop_training = batch == 1


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneResult]:
    """What a run without callbacks has written, and what it returns."""
    folder = tmp_path_factory.mktemp("plain")
    fill_workplace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder / "output", finetune(output="m.h5", **RUN)


def test_hooks_are_called_as_fit_calls_them_and_change_nothing(
    plain: tuple[Path, FinetuneResult], workplace: Path
) -> None:
    recorder, logger, board = Recorder(), keras.callbacks.CSVLogger("log.csv"), keras.callbacks.TensorBoard("logs")
    result = finetune(output="m.h5", callbacks=[recorder, logger, board], **RUN)
    epochs = [
        [f"epoch {epoch}", "step 0", "step 1", "step 2", f"end {epoch} ['loss', 'lr', 'val_loss']"] for epoch in (0, 1)
    ]
    assert recorder.calls == ["begin 2x3", *epochs[0], *epochs[1], "end"]
    assert result.history["loss"] == [np.mean(recorder.losses[:3]), np.mean(recorder.losses[3:])]
    assert len(result.history["val_loss"]) == 2 and result.history["lr"] == [1e-3, 1e-3]
    rows = list(csv.DictReader(Path("log.csv").read_text().splitlines()))
    assert [float(row["val_loss"]) for row in rows] == result.history["val_loss"]
    assert list(Path("logs/train").iterdir())
    assert all((one != other).any() for one, other in itertools.pairwise(recorder.weights))
    assert np.array_equal(recorder.weights[-1], result.model.get_weights()[0])
    output, without = plain
    assert result.history == without.history
    assert are_identical(read_hdf5(output / "m" / "state.h5"), read_hdf5(Path("output/m/state.h5")))


def test_weights_that_a_callback_sets_are_saved_and_returned(workplace: Path) -> None:
    result = finetune(output="m.h5", callbacks=SetWeights(), **{**RUN, "epochs": 1, "steps": 1})
    for weights in (read_weights(Path("output/m-last.h5")).values(), result.model.get_weights()):
        assert all((weight == 0.25).all() for weight in weights)


def test_early_stopping_ends_a_run_with_the_best_epochs_weights(workplace: Path) -> None:
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=100, patience=2, restore_best_weights=True)
    weights = keras.callbacks.ModelCheckpoint("{epoch}.weights.h5", save_weights_only=True)
    result = finetune(output="m.h5", callbacks=[stop, weights], **{**RUN, "epochs": 9, "steps": 1})
    assert len(result.history["val_loss"]) == 3  # the first one is the best, as no other is better by 100
    best = load_model("models/tiny")
    best.load_weights("1.weights.h5")
    for network in (result.model, load_model("output/m-last.h5")):
        assert all(map(np.array_equal, network.get_weights(), best.get_weights()))
    assert not np.array_equal(best.get_weights()[0], load_model("models/tiny").get_weights()[0])
    lowest = load_model("models/tiny")  # our own best weights, whatever the callback takes for an improvement
    lowest.load_weights(f"{1 + int(np.argmin(result.history['val_loss']))}.weights.h5")
    assert all(map(np.array_equal, load_model("output/m.h5").get_weights(), lowest.get_weights()))


@pytest.mark.slow
def test_a_run_stops_at_the_end_of_a_step_and_resumes(plain: tuple[Path, FinetuneResult], workplace: Path) -> None:
    stopped = finetune(output="m.h5", callbacks=[StopAtStep()], **RUN)
    assert len(read_hdf5(Path("output/m/state.h5"))["losses"]) == 2
    assert [len(losses) for losses in stopped.history.values()] == [1, 1, 1]
    recorder = Recorder()
    resumed = finetune(output="m.h5", resume=True, callbacks=[recorder], **RUN)
    assert recorder.calls[:3] == ["begin 2x3", "epoch 0", "step 2"] and len(resumed.history["loss"]) == 2
    assert are_identical(read_weights(plain[0] / "m-last.h5"), read_weights(Path("output/m-last.h5")))


def test_a_run_that_is_interrupted_ends_without_the_hook_of_its_end(workplace: Path) -> None:
    recorder = Recorder()
    interrupt = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: signal.raise_signal(signal.SIGINT)
    )
    result = finetune(callbacks=[recorder, interrupt], **RUN)
    assert recorder.calls == ["begin 2x3", "epoch 0", "step 0"] and len(result.history["loss"]) == 1


def test_adapters_are_part_of_the_network_that_callbacks_see(workplace: Path) -> None:
    names: list[str] = []
    note = keras.callbacks.LambdaCallback(on_train_end=lambda logs: names.extend(list_names(note.model)))
    result = finetune(callbacks=[note], lora_rank=2, **{**RUN, "epochs": 1, "steps": 1})
    assert names == list_names(result.model) and any("lora_a" in name for name in names)


def list_names(model: keras.Model) -> list[str]:
    """The names of a model's weights."""
    return [weight.name for weight in model.weights]


def test_the_history_has_the_epochs_of_earlier_processes_and_one_that_ended_early() -> None:
    history = History([3.0, 2.0, 2.0, 1.0, 0.5], [(0, 9.0), (2, 2.5), (4, 1.5)])
    summary = summarize_epochs(history, lambda step: 0.1 / (step + 1), steps=2)
    assert summary == {"loss": [2.5, 1.5, 0.5], "val_loss": [2.5, 1.5], "lr": [0.05, 0.025, 0.02]}
    assert summarize_epochs(History(), lambda step: 0.1, steps=2) == {}
