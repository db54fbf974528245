"""Fine-tuning: schedules, losses, saves, resuming, stopping. Runs on either backend."""

import fcntl
import json
import os
import random
import shutil
import signal
import termios
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from gpt_tf2 import InputError, load_model
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.storage.sealed import SEAL
from gpt_tf2.training.loggers.history_file import HISTORY
from gpt_tf2.training.loggers.tensorboard_files import TensorBoardFiles
from gpt_tf2.training.loop import stop_on_signal
from gpt_tf2.training.schedule import cosine_decay, step_decay, with_warmup
from gpt_tf2.training.state import SEALED, read_run
from helpers.finetuning import FLAGS, are_identical, change_settings, read_hdf5, read_weights, run_in_new_folder
from helpers.markers import slow_on_jax
from helpers.processes import run_script, start_script
from helpers.workplace import OPENAI_TINY

KILLS = 3


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the short run has ended."""
    return run_in_new_folder(tmp_path_factory)


@pytest.fixture
def finished(workplace: Path, finished_run: Path) -> Path:
    """The model that the short run has written into the current folder."""
    shutil.copytree(finished_run / "output", workplace / "output")
    return Path("output/m.h5")


def test_step_decay_starts_with_each_of_the_decay_epochs() -> None:
    schedule = step_decay(0.1, 0.5, [6, 10])
    rates = [schedule(step) for step in range(12)]
    assert rates == pytest.approx([0.1] * 6 + [0.05] * 4 + [0.025] * 2)
    assert change_settings(decay_epochs=(2, 10)).decay_steps() == [12, 60]


def test_the_learning_rate_rises_during_warmup_and_then_follows_a_cosine() -> None:
    schedule = with_warmup(cosine_decay(0.1, 0.2, 11), 4)
    assert [schedule(step) for step in range(3)] == pytest.approx([0.02, 0.0392, 0.0554], rel=0.05)
    assert schedule(5) == pytest.approx(0.06) and schedule(10) == pytest.approx(0.02)
    assert change_settings(lr=0.001, lr_schedule="cosine", decay_lr=0.2, warmup_steps=3).schedule()(
        11
    ) == pytest.approx(0.0002)


def test_a_run_learns_and_writes_model_curve_logs_and_vocabulary(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    output = run_finetune(change_settings(epochs=3, sample_every=5))
    assert output == Path("output/m.h5")
    state = read_hdf5(Path("output/m/state.h5"))
    assert len(state["losses"]) == 18
    assert state["validation"][:, 0].tolist() == [0, 6, 12, 18]
    assert state["validation"][-1, 1] < state["validation"][0, 1] - 0.5
    expected = {"encoder.json", "vocab.bpe", "validation.npy", "logs", "state.h5", "run.toml", "best.json", HISTORY}
    assert {path.name for path in Path("output/m").iterdir()} == expected
    assert Image.open("output/m.png").size == (960, 540)
    out = capsys.readouterr().out
    assert out.count("sample: ") == 3 and "tokens/s" in out and "left" in out
    logs = EventAccumulator("output/m/logs", size_guidance={"tensors": 0})
    logs.Reload()
    figures = {"loss/training", "loss/validation", "learning_rate", "tokens_per_second", "peak_memory_gb"}
    assert set(logs.Tags()["tensors"]) == {*figures, "settings", "sample"}
    assert len(logs.Tensors("loss/training")) == 18
    assert all(
        np.array_equal(value, state[f"model/{name}"]) for name, value in read_weights(Path("output/m-last.h5")).items()
    )


@pytest.mark.parametrize(
    "name",
    [
        "folder/model.safetensors",
        pytest.param("folder", marks=pytest.mark.slow),
        pytest.param("m.ckpt", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_every_format_can_be_written_and_trained_further(workplace: Path, name: str) -> None:
    path = run_finetune(change_settings(output_name=name, epochs=1, steps=1))
    first = read_weights(path)
    again = run_finetune(
        change_settings(output_name="again.h5", epochs=1, steps=1, model_ckpt=str(path), val_fraction=0.0)
    )
    assert not are_identical(first, read_weights(again))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(finished: Path) -> None:
    weights = read_weights(finished)
    assert are_identical(weights, read_weights(run_finetune(change_settings(output_name="same.h5"))))
    assert not are_identical(weights, read_weights(run_finetune(change_settings(output_name="other.h5", seed=4))))


@pytest.mark.slow
def test_samples_and_saves_during_training_do_not_change_the_weights(finished: Path) -> None:
    disturbed = run_finetune(change_settings(output_name="b.h5", sample_every=5, save_every=4))
    assert are_identical(read_weights(finished), read_weights(disturbed))


@slow_on_jax
def test_eager_execution_gives_the_same_losses(workplace: Path) -> None:
    settings = {"epochs": 1, "steps": 2, "dropout": 0.0, "val_fraction": 0.0, "precision": "float32"}
    run_finetune(change_settings(**settings, output_name="e.h5", eager=True))
    run_finetune(change_settings(**settings, output_name="g.h5"))
    eager, graph = (read_hdf5(Path(f"output/{name}/state.h5"))["losses"] for name in "eg")
    assert eager == pytest.approx(graph, rel=1e-5)


def test_a_resumed_run_ends_bit_identical_to_an_uninterrupted_one(workplace: Path) -> None:
    short = {"steps": 3, "decay_epochs": (1,)}
    run_finetune(change_settings(**short, output_name="whole.h5"))
    run_finetune(change_settings(**short, epochs=1))
    run_finetune(change_settings(**short, resume=True))
    whole, resumed = (read_hdf5(Path(f"output/{name}/state.h5")) for name in ("whole", "m"))
    assert are_identical(whole, resumed)
    assert read_logged_losses(Path("output/m", HISTORY)) == pytest.approx(whole["losses"], rel=1e-5)


def read_logged_losses(history: Path) -> list[float]:
    """The losses in a history, each of which must be there once."""
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    losses = [(line["step"], line["loss/training"]) for line in lines if "loss/training" in line]
    assert [step for step, _ in losses] == [*range(1, len(losses) + 1)]
    return [loss for _, loss in losses]


def test_resuming_a_finished_run_writes_its_missing_model(finished: Path) -> None:
    last = Path("output/m-last.h5")
    before = read_weights(last)
    last.unlink()
    run_finetune(change_settings(resume=True))
    assert are_identical(before, read_weights(last))


@pytest.fixture(scope="module")
def full_precision(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The saved state of the short run in float32."""
    return read_hdf5(run_in_new_folder(tmp_path_factory, precision="float32") / "output" / "m" / "state.h5")


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_half_precision_learns_as_much_and_resumes_exactly(
    workplace: Path, full_precision: dict[str, np.ndarray], precision: str
) -> None:
    run_finetune(change_settings(output_name="half.h5", precision=precision))
    run_finetune(change_settings(precision=precision, epochs=1))
    run_finetune(change_settings(precision=precision, resume=True))
    half, resumed = (read_hdf5(Path(f"output/{name}/state.h5")) for name in ("half", "m"))
    assert are_identical(half, resumed)
    assert not np.array_equal(full_precision["losses"], half["losses"])
    assert half["validation"][:, 1] == pytest.approx(full_precision["validation"][:, 1], rel=0.01)
    assert all(value.dtype == np.float32 for value in read_weights(Path("output/half.h5")).values())


@slow_on_jax
@pytest.mark.parametrize(("fast", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_follows_the_device(
    fast: bool, precision: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("gpt_tf2.commands.run.has_fast_bfloat16", lambda: fast)
    run_finetune(change_settings(epochs=1, steps=1, val_fraction=0.0))
    assert f"parameters, {precision}, " in capsys.readouterr().out


def test_resuming_with_other_settings_or_data_is_refused(finished: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"batch_size=3: was 2 when the run began \(output/m/state\.h5\): use the same value, or leave resume out",
    ):
        run_finetune(change_settings(batch_size=3, resume=True))
    Path("story.txt").write_text("Another story. " * 200)
    with pytest.raises(InputError, match="the text of data has changed since the run began"):
        run_finetune(change_settings(resume=True))


def test_a_damaged_state_is_never_resumed_nor_made_a_model(finished: Path) -> None:
    state = Path("output/m/state.h5")
    whole, model = state.read_bytes(), finished.read_bytes()
    draw = random.Random(5)
    for position in [*(draw.randrange(len(whole) - SEAL.size) for _ in range(20)), len(whole) - 1]:
        state.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        with pytest.raises(InputError, match=r"state\.h5 is damaged .*leave resume out to start again"):
            read_run(state)
    state.write_bytes(whole[: -SEAL.size])
    with pytest.raises(InputError, match="its checksum is missing"):
        read_run(state)
    with h5py.File(state, "r+") as file:
        del file.attrs[SEALED]  # as earlier versions wrote it
        file["model/ln_f/g"][3] = np.nan
    with pytest.raises(InputError, match=r"state\.h5: model/ln_f/g is not finite, so the run has diverged"):
        run_finetune(change_settings(resume=True))
    assert finished.read_bytes() == model


@slow_on_jax
def test_a_diverged_run_stops_and_keeps_the_last_save(finished: Path) -> None:
    before = read_hdf5(Path("output/m/state.h5")), finished.read_bytes()
    with pytest.raises(InputError, match=r"step \d+: .* diverged.*lower lr"):
        run_finetune(change_settings(lr=1e30))
    assert are_identical(before[0], read_hdf5(Path("output/m/state.h5")))
    assert before[1] == finished.read_bytes()


@pytest.mark.slow
def test_a_run_that_is_killed_ends_bit_identical(workplace: Path) -> None:
    flags = [*FLAGS, "--num_epoch=3", f"--steps_per_epoch={10 * KILLS}", "--save_every=3", "--val_fraction=0.03"]
    assert main(["finetune", *flags, "--output_name=whole.h5"]) == 0
    state, draw = workplace / "output" / "m" / "state.h5", random.Random(7)
    kills = 0
    for _ in range(KILLS):
        process = start_script("finetune.py", *flags, "--resume", folder=workplace)
        saved_at = state.stat().st_mtime if state.exists() else 0
        while process.poll() is None and (not state.exists() or state.stat().st_mtime == saved_at):
            time.sleep(0.01)  # until its first save
        time.sleep(draw.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == KILLS, "the run ended before it was killed"
    last = run_script("finetune.py", *flags, "--resume", folder=workplace)
    assert last.returncode == 0, last.stderr
    assert "resuming after step" in last.stdout
    assert are_identical(read_hdf5(workplace / "output" / "whole" / "state.h5"), read_hdf5(state))
    assert len(read_logged_losses(state.with_name(HISTORY))) == 30 * KILLS
    for end in (".h5", "-last.h5"):
        whole, resumed = (read_weights(workplace / "output" / f"{name}{end}") for name in ("whole", "m"))
        assert are_identical(whole, resumed)


@slow_on_jax
@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGHUP))]
)
@pytest.mark.slow
def test_a_signal_saves_the_run_and_exits_cleanly(workplace: Path, number: signal.Signals) -> None:
    process = start_script("finetune.py", *FLAGS, "--num_epoch=1000", folder=workplace)
    line = ""
    while "tokens/s" not in line and "step 1/" not in line:
        line = process.stdout.readline()
        assert line, process.stderr.read()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert "continue with --resume" in out
    assert len(read_hdf5(workplace / "output" / "m" / "state.h5")["losses"]) > 0
    assert load_model(workplace / "output" / "m.h5").config == load_model(OPENAI_TINY).config


@pytest.mark.slow
@slow_on_jax
def test_a_closed_terminal_saves_the_run(workplace: Path) -> None:
    master, slave = os.openpty()
    terminal = {"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True}
    take_terminal = partial(fcntl.ioctl, slave, termios.TIOCSCTTY, 0)
    process = start_script(
        "finetune.py", *FLAGS, "--num_epoch=1000", folder=workplace, preexec_fn=take_terminal, **terminal
    )
    os.close(slave)
    while b"tokens/s" not in os.read(master, 10_000):
        pass
    os.close(master)
    assert process.wait(60) == 0
    assert len(read_hdf5(workplace / "output" / "m" / "state.h5")["losses"]) > 0


def test_signals_stop_training_but_sighup_stays_ignored_under_nohup(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with stop_on_signal() as stopped:
            signal.raise_signal(number)
            assert stopped.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as stopped:
            signal.raise_signal(signal.SIGHUP)
            assert not stopped.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_logs_and_stdout_that_cannot_be_written_do_not_stop_training(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """As on a full disk: the files open, but no byte can be written."""
    append = TensorBoardFiles.log

    def fill(self: TensorBoardFiles, values: Mapping[str, float], step: int) -> None:
        if step == 3:
            self.file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
            self.records = RecordWriter(self.file)
        append(self, values, step)

    monkeypatch.setattr(TensorBoardFiles, "log", fill)
    flags = [*FLAGS, "--num_epoch=1", "--steps_per_epoch=6", "--save_every=5"]
    assert main(["finetune", *flags]) == 0
    out = capfd.readouterr().out
    assert out.count("output/m/logs: cannot be written (No space left on device): training goes on") == 1
    assert len(read_hdf5(Path("output/m/state.h5"))["losses"]) == 6
    result = run_script("finetune.py", *flags, folder=workplace, stdout=os.open("/dev/full", os.O_WRONLY))
    assert result.returncode == 0
    assert result.stderr == "stdout cannot be written (No space left on device): training goes on\n"


@pytest.mark.slow
def test_a_checkpoint_alone_takes_hparams_and_vocabulary_from_the_model_folder(workplace: Path) -> None:
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    for path in (workplace / "models" / "tiny").glob("model.ckpt*"):
        path.rename(elsewhere / path.name)
    output = run_finetune(change_settings(model_ckpt=str(elsewhere / "model.ckpt"), epochs=1, output_name=None))
    assert output == Path("output/story_tiny.h5") and output.is_file()
