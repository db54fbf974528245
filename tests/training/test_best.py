"""The best weights of a run, and patience: found, kept, and resumed after any interruption. Runs on either backend."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpt_tf2 import InputError, finetune, load_model
from gpt_tf2.cli import main
from gpt_tf2.commands import run_files
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.run import place_last
from gpt_tf2.training import loop
from gpt_tf2.training.best import BestWeights, count_without_improvement, find_best, read_best, write_best
from gpt_tf2.training.callbacks import Callbacks
from gpt_tf2.training.curve import draw_curve
from gpt_tf2.training.state import History
from helpers.finetuning import are_identical, change_settings, read_hdf5, read_weights, run_in_new_folder
from helpers.markers import slow_on_jax
from helpers.processes import run_script

if os.environ.get("KERAS_BACKEND") == "jax":  # what is tested here is the same on both
    pytestmark = pytest.mark.slow

# At a rate that is far too high the validation loss falls, rises, falls to its lowest, and rises again.
UNSTEADY: dict[str, Any] = {"epochs": 8, "steps": 2, "lr": 0.1, "dropout": 0.0, "precision": "float32"}
BEST, LAST, ABOUT = Path("output/m.h5"), Path("output/m-last.h5"), Path("output/m/best.json")


def read_validations(folder: str = "output/m") -> list[tuple[int, float]]:
    """The validations in a saved run."""
    return [(int(step), float(loss)) for step, loss in read_hdf5(Path(folder) / "state.h5")["validation"]]


def compute_stop(losses: list[float], patience: int) -> int:
    """The number of validations after training began at which Keras's EarlyStopping stops."""
    import keras

    stop = keras.callbacks.EarlyStopping("val_loss", patience=patience)
    stop.set_model(keras.Sequential([]))
    stop.model.stop_training = False
    stop.on_train_begin()
    for number, loss in enumerate(losses, start=1):
        stop.on_epoch_end(number - 1, {"val_loss": loss})
        if stop.model.stop_training:
            return number
    return len(losses)


def test_the_best_validation_is_the_first_lowest_of_trained_weights() -> None:
    assert find_best([(0, 1.0), (2, 3.0), (4, 2.0), (6, 2.0), (8, np.nan)]) == (4, 2.0)
    assert find_best([]) is None is find_best([(0, 1.0), (2, np.inf)])
    assert count_without_improvement([(0, 1.0), (2, 3.0), (4, 2.0), (6, 2.0), (8, np.nan)]) == 2
    assert [count_without_improvement(v) for v in ([], [(0, 1.0)], [(0, 1.0), (2, np.nan)])] == [0, 0, 1]


def test_patience_counts_as_keras_does() -> None:
    draw = np.random.default_rng(3)
    for patience in (1, 2, 3):
        for _ in range(30):
            losses = draw.integers(0, 9, 12).astype(float).tolist()
            validations = [(0, 0.5), *((2 * number, loss) for number, loss in enumerate(losses, start=1))]
            ours = next(
                (n for n in range(1, 13) if count_without_improvement(validations[: n + 1]) >= patience), len(losses)
            )
            assert ours == compute_stop(losses, patience), losses


def test_weights_are_written_only_if_they_are_better_than_those_in_the_file() -> None:
    written: list[tuple[int, float]] = []
    best = BestWeights((4, 2.0), written.append)
    assert [best.is_beaten_by(v) for v in [(6, 2.0), (6, np.nan), (0, 1.0), (6, 1.9)]] == [False, False, False, True]
    best.write((6, 1.9))
    assert written == [(6, 1.9)] and best.kept == (6, 1.9) and BestWeights(None, written.append).is_beaten_by((2, 9.0))


@pytest.fixture(scope="module")
def unsteady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run whose best weights are not its last."""
    folder = run_in_new_folder(tmp_path_factory, **UNSTEADY)
    validations = read_validations(str(folder / "output" / "m"))
    best = find_best(validations)
    assert best and 2 < best[0] < validations[-1][0] - 2, validations  # or the tests below could not fail
    return folder


def read_best_step(folder: Path) -> int:
    """The step of the best weights of a run in a folder."""
    best = read_best(folder / ABOUT)
    assert best
    return best[0]


def test_the_best_file_has_the_weights_of_its_step_and_the_last_those_of_the_end(
    unsteady: Path, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    best = find_best(read_validations(str(unsteady / "output" / "m")))
    assert best == read_best(unsteady / ABOUT)
    run_finetune(change_settings(**{**UNSTEADY, "epochs": best[0] // 2}))  # ends where that run was at its best
    weights = read_weights(unsteady / BEST)
    assert are_identical(weights, read_weights(LAST)) and are_identical(weights, read_weights(BEST))
    state = read_hdf5(unsteady / "output" / "m" / "state.h5")
    last = read_weights(unsteady / LAST)
    assert all(np.array_equal(last[name], state[f"model/{name}"]) for name in last)
    assert not are_identical(last, weights)
    out = capsys.readouterr().out.splitlines()
    assert f"saved output/m.h5, the best weights: step {best[0]}, validation loss {best[1]:.4f}" in out
    assert f"saved output/m-last.h5, the last weights: step {best[0]}" in out


@pytest.mark.parametrize("patience", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_stops_where_the_reference_does_and_so_does_a_resumed_one(
    patience: int, unsteady: Path, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    validations = read_validations(str(unsteady / "output" / "m"))
    stop = compute_stop([loss for _, loss in validations[1:]], patience)
    assert stop < len(validations) - 1, validations
    run_finetune(change_settings(**UNSTEADY, patience=patience))
    assert read_validations() == validations[: stop + 1]
    assert f"stopped early: no lower validation loss in the last {patience} validations" in capsys.readouterr().out
    files = [read_hdf5(path) for path in (BEST, LAST)]
    run_finetune(change_settings(**UNSTEADY, patience=patience, resume=True))  # there is nothing left to do
    assert read_validations() == validations[: stop + 1]
    assert all(are_identical(before, read_hdf5(path)) for before, path in zip(files, (BEST, LAST), strict=True))
    run_finetune(change_settings(**UNSTEADY, resume=True))  # goes on without patience
    for path in (BEST, LAST):
        assert are_identical(read_hdf5(path), read_hdf5(unsteady / path))


@pytest.mark.slow
def test_patience_counts_on_after_each_step_that_a_run_is_resumed_from(
    unsteady: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process is stopped by a signal after three steps, while an epoch has two."""
    validations = read_validations(str(unsteady / "output" / "m"))
    stop = compute_stop([loss for _, loss in validations[1:]], 2)
    record, steps = loop.record, 0

    def interrupt(*arguments: Any) -> None:
        nonlocal steps
        record(*arguments)
        steps += 1
        if steps == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "record", interrupt)
    for _ in range(stop):
        steps = 0
        run_finetune(change_settings(**UNSTEADY, patience=2, resume=True))
    assert steps == 0 and read_validations() == validations[: stop + 1]
    assert read_best(ABOUT) == find_best(validations[: stop + 1])


@pytest.mark.slow
def test_a_run_of_an_earlier_version_resumes_and_keeps_its_best_weights_from_then_on(
    unsteady: Path, workplace: Path
) -> None:
    validations = read_validations(str(unsteady / "output" / "m"))
    best = read_best_step(unsteady)
    run_finetune(change_settings(**{**UNSTEADY, "epochs": best // 2 + 1}))
    LAST.rename(BEST)  # as it left its files: the last weights, and no word on the best
    ABOUT.unlink()
    run_finetune(change_settings(**UNSTEADY, resume=True))
    assert read_best(ABOUT) == find_best(validations[best // 2 + 1 :])
    assert are_identical(read_weights(LAST), read_weights(unsteady / LAST))
    assert not are_identical(read_weights(BEST), read_weights(LAST))


def test_a_best_file_that_was_deleted_is_written_again_where_its_step_is_the_last(workplace: Path) -> None:
    run_finetune(change_settings(lr=0.001, epochs=1, steps=2))
    before = read_weights(BEST)
    assert read_best_step(workplace) == 2
    BEST.unlink()
    run_finetune(change_settings(lr=0.001, epochs=1, steps=2, resume=True))
    assert are_identical(before, read_weights(BEST))


def test_until_the_first_validation_both_files_have_the_last_weights(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    begin_step = Callbacks.begin_step

    def interrupt(callbacks: Callbacks, step: int) -> None:
        begin_step(callbacks, step)
        signal.raise_signal(signal.SIGINT)

    ABOUT.parent.mkdir(parents=True)
    ABOUT.write_text('{"step": 2, "validation_loss": 0.5}')  # another run's
    monkeypatch.setattr(Callbacks, "begin_step", interrupt)
    run_finetune(change_settings(**UNSTEADY))
    assert are_identical(read_weights(BEST), read_weights(LAST)) and not ABOUT.exists()
    out = capsys.readouterr().out
    assert "saved output/m.h5, the last weights" in out
    assert "saved output/m-last.h5, the last weights after step 1; continue with --resume" in out


KILLED = """
import os, signal, keras, gpt_tf2

class Kill(keras.callbacks.Callback):
    left = 13  # steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

gpt_tf2.finetune(callbacks=[Kill()], **SETTINGS)
"""


@slow_on_jax
@pytest.mark.slow
def test_a_killed_run_has_the_best_weights_of_an_uninterrupted_one(unsteady: Path, workplace: Path) -> None:
    """Killed after step 13, when the best weights, of step 12, are ahead of the state, of step 10."""
    assert read_best_step(unsteady) == 12
    settings = change_settings(**UNSTEADY, save_every=5, patience=50)
    given = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    (workplace / "killed.py").write_text(KILLED.replace("SETTINGS", repr(given)))
    killed = run_script(str(workplace / "killed.py"), folder=workplace)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read_hdf5(Path("output/m/state.h5"))["losses"]) == 10 and read_best_step(workplace) == 12
    assert are_identical(read_weights(BEST), read_weights(unsteady / BEST))
    run_finetune(dataclasses.replace(settings, resume=True))
    for path in (BEST, LAST):
        assert are_identical(read_weights(path), read_weights(unsteady / path))
    assert read_validations() == read_validations(str(unsteady / "output" / "m"))
    assert read_best(ABOUT) == read_best(unsteady / ABOUT)


@pytest.mark.slow
def test_a_fresh_run_that_is_killed_never_mixes_with_the_state_of_an_earlier_one(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_finetune(change_settings(epochs=1, steps=2, seed=8))

    def kill(path: Path, best: tuple[int, float]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_files, "write_best", kill)
        run_finetune(change_settings(**UNSTEADY))
    assert not ABOUT.exists()
    with pytest.raises(InputError, match="was 0"):
        run_finetune(change_settings(epochs=1, steps=2, seed=8, resume=True))
    run_finetune(change_settings(**{**UNSTEADY, "epochs": 1}, resume=True))
    assert read_best_step(workplace) == 2 and are_identical(read_weights(BEST), read_weights(LAST))


@pytest.mark.parametrize(
    ("output", "last"),
    [
        ("output/m.h5", "output/m-last.h5"),
        ("output/m.ckpt", "output/m-last.ckpt"),
        ("output/folder/model.ckpt", "output/folder-last/model.ckpt"),
        ("hf/model.safetensors", "hf-last/model.safetensors"),
        ("./model.h5", "model-last.h5"),
        ("../model.h5", "../model-last.h5"),
    ],
)
def test_the_last_weights_lie_beside_the_best(output: str, last: str) -> None:
    assert place_last(Path(output)) == Path(last)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("folder/model.safetensors", {}),
        ("m.h5", {"lora_rank": 2}),
        pytest.param("m.ckpt", {}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_both_files_can_be_opened_in_every_format(workplace: Path, name: str, settings: dict[str, Any]) -> None:
    output = run_finetune(change_settings(output_name=name, epochs=2, steps=2, **settings))
    assert main(["generate", f"--model={place_last(output)}", "--engine=graph", "--length=2"]) == 0
    assert are_identical(read_weights(output), read_weights(place_last(output)))


def test_validations_come_every_so_many_steps_and_at_the_end(workplace: Path) -> None:
    result = finetune("story.txt", model="tiny", length=32, val_fraction=0.03, validate_every=3, epochs=2, steps=4,
                      output="m.h5", verbose=0)  # fmt: skip
    assert [step for step, _ in read_validations()] == [0, 3, 6, 8]
    assert result.history["val_loss"] == [read_validations()[-1][1]]  # of the epoch that ended with one


def test_python_returns_the_last_weights_and_the_path_of_the_best(unsteady: Path, workplace: Path) -> None:
    keys = ("epochs", "steps", "lr", "precision")
    result = finetune("story.txt", model="tiny", output="m.h5", length=32, batch_size=2, val_fraction=0.03, verbose=0,
                      **{key: UNSTEADY[key] for key in keys})  # fmt: skip
    last, best = (load_model(unsteady / path).get_weights() for path in (LAST, BEST))
    assert all(map(np.array_equal, result.model.get_weights(), last))
    assert result.path == BEST and all(map(np.array_equal, load_model(result.path).get_weights(), best))


@pytest.mark.slow
def test_training_that_has_not_helped_says_so(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    run_finetune(change_settings(epochs=1, steps=1, lr=0.5))
    assert "training has not helped: the validation loss was " in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["patience", "validate_every"])
def test_a_setting_of_validations_needs_data_to_validate_on(setting: str, workplace: Path) -> None:
    with pytest.raises(InputError, match=rf"{setting}=3: needs data to validate on: give val_fraction"):
        run_finetune(change_settings(val_fraction=0.0, **{setting: 3}))
    assert not Path("output").exists()


def test_the_curve_marks_the_best_step(tmp_path: Path) -> None:
    history = History([3.0, 2.0, 2.5, 1.0], [(2, 2.0), (4, 2.5)])
    draw_curve(tmp_path / "plain.png", history, None, "m")
    draw_curve(tmp_path / "marked.png", history, (2, 2.0), "m")
    plain, marked = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("plain", "marked"))
    red = (marked == (214, 39, 40)).all(-1)  # tab:red
    assert red.sum() > 50 and not (plain == (214, 39, 40)).all(-1).any()


@pytest.mark.parametrize("content", ["{", "[]", '{"step": 3}', '{"step": 3, "validation_loss": NaN}'])
def test_a_damaged_note_on_the_best_weights_is_refused(content: str, tmp_path: Path) -> None:
    write_best(tmp_path / "best.json", (3, 2.5))
    assert read_best(tmp_path / "best.json") == (3, 2.5) and read_best(tmp_path / "none.json") is None
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(InputError, match=r"best\.json"):
        read_best(tmp_path / "best.json")
