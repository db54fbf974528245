"""Fine-tuning: schedule, losses, saves, resuming, stopping. Runs on either backend."""

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt_tf2 import InputError, finetune, load_model
from gpt_tf2.training.schedule import cosine, step_decay, warmed_up
from helpers.finetuning import FLAGS, SETTINGS, change, identical, saved, weights
from helpers.processes import OPENAI_TINY, command, run


def test_the_learning_rate_decays_at_the_start_of_each_epoch_named() -> None:
    schedule = step_decay(0.1, 0.5, [6, 10])
    rates = [schedule(step) for step in range(12)]
    assert rates == pytest.approx([0.1] * 6 + [0.05] * 4 + [0.025] * 2)
    assert change(decay_epochs="2,10").decay_steps() == [12, 60]


def test_the_learning_rate_rises_and_then_falls_along_a_cosine() -> None:
    schedule = warmed_up(cosine(0.1, 0.2, 11), 4)
    assert [schedule(step) for step in range(3)] == pytest.approx([0.02, 0.0392, 0.0554], rel=0.05)
    assert schedule(5) == pytest.approx(0.06) and schedule(10) == pytest.approx(0.02)
    assert change(lr_schedule="cosine", decay_lr=0.2, warmup_steps=3).schedule()(11) == pytest.approx(0.0002)


def test_a_run_learns_and_leaves_model_curve_logs_and_vocabulary(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    output = finetune(change(num_epoch=3, sample_every=5))
    assert output == Path("output/m.h5")
    state = saved(Path("output/m/state.h5"))
    assert len(state["losses"]) == 18
    assert state["validation"][:, 0].tolist() == [0, 6, 12, 18]
    assert state["validation"][-1, 1] < state["validation"][0, 1] - 0.5
    there = {"encoder.json", "vocab.bpe", "validation.npy", "logs", "state.h5"}
    assert {path.name for path in Path("output/m").iterdir()} == there
    assert Image.open("output/m.png").size == (960, 540)
    out = capsys.readouterr().out
    assert out.count("sample: ") == 3 and "tokens/s" in out and "left" in out
    logs = EventAccumulator("output/m/logs", size_guidance={"tensors": 0})
    logs.Reload()
    assert set(logs.Tags()["tensors"]) == {"loss/training", "loss/validation", "learning_rate", "tokens_per_second"}
    assert len(logs.Tensors("loss/training")) == 18
    assert all(np.array_equal(value, state[f"model/{name}"]) for name, value in weights(output).items())


@pytest.mark.parametrize("name", ["m.ckpt", "folder/model.safetensors", "folder"])
def test_every_format_is_written_and_trained_on(workplace: Path, name: str) -> None:
    path = finetune(change(output_name=name, num_epoch=1))
    first = weights(path)
    again = finetune(change(output_name="again.h5", num_epoch=1, model_ckpt=str(path)))
    assert not identical(first, weights(again))


def test_the_same_seed_gives_the_same_weights(workplace: Path) -> None:
    runs = [weights(finetune(change(output_name=f"{i}.h5", seed=seed))) for i, seed in enumerate((3, 3, 4))]
    assert identical(runs[0], runs[1])
    assert not identical(runs[0], runs[2])


def test_sampling_and_saving_on_the_way_change_nothing(workplace: Path) -> None:
    plain = weights(finetune(SETTINGS))
    assert identical(
        plain, weights(finetune(change(output_name="b.h5", sample_every=3, save_every=4, val_fraction=0.1)))
    )


def test_eager_gives_the_same_losses(workplace: Path) -> None:
    finetune(change(output_name="e.h5", eager=True, dropout=0.0, precision="float32"))
    finetune(change(output_name="g.h5", dropout=0.0, precision="float32"))
    eager, graph = (saved(Path(f"output/{name}/state.h5"))["losses"] for name in "eg")
    assert eager == pytest.approx(graph, rel=1e-5)


def test_resuming_goes_on_as_if_nothing_had_happened(workplace: Path) -> None:
    finetune(change(output_name="whole.h5", num_epoch=4, decay_epochs="1,3"))
    finetune(change(num_epoch=2, decay_epochs="1,3"))
    finetune(change(num_epoch=4, decay_epochs="1,3", resume=True))
    assert identical(saved(Path("output/whole/state.h5")), saved(Path("output/m/state.h5")))


def test_resuming_a_finished_run_writes_a_model_that_is_missing(workplace: Path) -> None:
    before = weights(finetune(SETTINGS))
    Path("output/m.h5").unlink()
    assert identical(before, weights(finetune(change(resume=True))))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_the_bits_learn_as_much_and_resume_exactly(workplace: Path, precision: str) -> None:
    finetune(change(output_name="full.h5", precision="float32", num_epoch=4))
    finetune(change(output_name="half.h5", precision=precision, num_epoch=4))
    finetune(change(precision=precision, num_epoch=2))
    finetune(change(precision=precision, num_epoch=4, resume=True))
    full, half, resumed = (saved(Path(f"output/{name}/state.h5")) for name in ("full", "half", "m"))
    assert identical(half, resumed)
    assert not np.array_equal(full["losses"], half["losses"])
    assert half["validation"][:, 1] == pytest.approx(full["validation"][:, 1], rel=0.01)
    assert all(value.dtype == np.float32 for value in weights(Path("output/half.h5")).values())


@pytest.mark.parametrize(("fast", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_the_device_decides_the_precision(
    fast: bool, precision: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("gpt_tf2.commands.finetune.has_fast_bfloat16", lambda: fast)
    finetune(change(num_epoch=1))
    assert f"parameters, {precision}, " in capsys.readouterr().out


def test_resuming_refuses_another_run(workplace: Path) -> None:
    finetune(SETTINGS)
    with pytest.raises(InputError, match="--batch_size is 3 now, 2 when the run began"):
        finetune(change(batch_size=3, resume=True))
    Path("story.txt").write_text("Another story. " * 200)
    with pytest.raises(InputError, match="the text of --dataset_path"):
        finetune(change(resume=True))


def test_not_a_number_stops_and_keeps_the_last_save(workplace: Path) -> None:
    finetune(change(num_epoch=1))
    before = saved(Path("output/m/state.h5")), Path("output/m.h5").read_bytes()
    with pytest.raises(InputError, match=r"step \d+: .* diverged.*lower --base_lr"):
        finetune(change(base_lr=1e30))
    assert identical(before[0], saved(Path("output/m/state.h5")))
    assert before[1] == Path("output/m.h5").read_bytes()


def test_a_run_killed_five_times_ends_bit_identical(workplace: Path) -> None:
    flags = [*FLAGS, "--num_epoch=3", "--steps_per_epoch=40", "--save_every=3"]
    whole = run("finetune.py", *flags, "--output_name=whole.h5", folder=workplace)
    assert whole.returncode == 0, whole.stderr
    state, draw = workplace / "output" / "m" / "state.h5", random.Random(7)
    kills = 0
    for _ in range(5):
        process = command("finetune.py", *flags, "--resume", folder=workplace)
        began = state.stat().st_mtime if state.exists() else 0
        while process.poll() is None and (not state.exists() or state.stat().st_mtime == began):
            time.sleep(0.01)  # until it is past its first save
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 5, "the run ended before it was killed"
    last = run("finetune.py", *flags, "--resume", folder=workplace)
    assert last.returncode == 0, last.stderr
    assert "going on after step" in last.stdout
    assert identical(saved(workplace / "output" / "whole" / "state.h5"), saved(state))
    assert identical(weights(workplace / "output" / "whole.h5"), weights(workplace / "output" / "m.h5"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_exits_cleanly(workplace: Path, number: signal.Signals) -> None:
    process = command("finetune.py", *FLAGS, "--num_epoch=1000", folder=workplace)
    line = ""
    while "tokens/s" not in line and "step 1/" not in line:
        line = process.stdout.readline()
        assert line, process.stderr.read()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert "go on with --resume" in out
    assert len(saved(workplace / "output" / "m" / "state.h5")["losses"]) > 0
    assert load_model(workplace / "output" / "m.h5").config == load_model(OPENAI_TINY).config


def test_a_checkpoint_elsewhere_takes_the_rest_from_its_model(workplace: Path) -> None:
    moved = workplace / "elsewhere"
    moved.mkdir()
    for path in (workplace / "models" / "tiny").glob("model.ckpt*"):
        path.rename(moved / path.name)
    output = finetune(change(model_ckpt=str(moved / "model.ckpt"), num_epoch=1, output_name=None))
    assert output == Path("output/story_tiny.h5") and output.is_file()
