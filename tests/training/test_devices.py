"""Several devices and several processes on JAX: the losses of one device, and an error where a process ends."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from helpers.finetuning import read_hdf5, read_weights
from helpers.processes import find_free_port, run_script, start_script
from helpers.workplace import fill_workplace

pytestmark = pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "jax", reason="needs JAX")
FLAGS = ["--dataset_path=story.txt", "--model=tiny", "--length=32", "--batch_size=3", "--sample_every=0"]
FLAGS += ["--val_fraction=0.1", "--precision=float32", "--steps_per_epoch=20"]
TWO = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


def read_losses(folder: Path, name: str) -> np.ndarray:
    state = read_hdf5(folder / "output" / name / "state.h5")
    return np.concatenate([state["losses"], state["validation"][:, 1]])


def start_pair(folder: Path, *flags: str) -> list:
    """Start two processes of one run."""
    address = f"127.0.0.1:{find_free_port()}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": ""}
    return [
        start_script("finetune.py", *FLAGS, *flags, folder=folder, env={**shared, "JAX_PROCESS_ID": str(i)})
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def expected_losses(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The losses on one device."""
    folder = tmp_path_factory.mktemp("one")
    fill_workplace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["finetune", *FLAGS, "--num_epoch=1", "--output_name=one.h5"]) == 0
    losses = read_losses(folder, "one")
    assert len(losses) == 22
    return losses


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one(workplace: Path, expected_losses: np.ndarray) -> None:
    flags = [*FLAGS, "--devices=2", "--num_epoch=1", "--output_name=two.h5"]
    result = run_script("finetune.py", *flags, folder=workplace, env=TWO)
    assert result.returncode == 0, result.stderr
    assert read_losses(workplace, "two") == pytest.approx(expected_losses, rel=1e-5)


@pytest.mark.parametrize("lora", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_whose_weights_are_split_resumes_and_gives_the_losses_of_one_device(
    workplace: Path, expected_losses: np.ndarray, capsys: pytest.CaptureFixture, lora: int
) -> None:
    if lora:
        flags = [*FLAGS, f"--lora_rank={lora}", "--num_epoch=1"]
        assert main(["finetune", *flags, "--output_name=whole.h5"]) == 0
        expected_losses = read_losses(workplace, "whole")
    flags = [*FLAGS, f"--lora_rank={lora}", "--shard", "--output_name=split.h5", "--steps_per_epoch=10"]
    assert main(["finetune", *flags, "--num_epoch=1"]) == 0
    assert main(["finetune", *flags, "--num_epoch=2", "--resume"]) == 0
    assert " × 8, weights split" in capsys.readouterr().out
    losses = read_losses(workplace, "split")
    assert len(losses) == 23  # with a third validation, after ten steps
    assert [*losses[:20], losses[20], losses[22]] == pytest.approx(expected_losses, rel=1e-5)
    if not lora:
        state = read_hdf5(Path("output/split/state.h5"))
        for name, weight in read_weights(Path("output/split.h5")).items():
            assert np.array_equal(weight, state[f"model/{name}"]), name


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(workplace: Path, expected_losses: np.ndarray) -> None:
    processes = start_pair(workplace, "--num_epoch=1", "--output_name=pair.h5")
    (first, _), (second, _) = (process.communicate(timeout=120) for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert "step 20/20" in first and "step" not in second.replace("Gloo", "")
    assert read_losses(workplace, "pair") == pytest.approx(expected_losses, rel=1e-5)


@pytest.mark.slow
def test_if_one_process_is_killed_the_other_ends_with_a_clear_error(workplace: Path) -> None:
    processes = start_pair(workplace, "--num_epoch=1000", "--save_every=5", "--output_name=m.h5")
    state = workplace / "output" / "m" / "state.h5"
    while not state.exists():
        assert processes[0].poll() is None, processes[0].stderr.read()
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    _, err = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 2
    assert (
        "finetune.py: another process of this run has ended" in err and "start all processes again with --resume" in err
    )
    assert len(read_hdf5(state)["losses"]) % 5 == 0
    processes[1].communicate()


@pytest.mark.slow
def test_processes_that_resume_from_different_saves_are_refused(workplace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    fill_workplace(other)
    ends = []
    for flags in (["--num_epoch=1"], ["--num_epoch=2", "--resume"]):
        address = f"127.0.0.1:{find_free_port()}"
        shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": ""}
        pair = [
            start_script(
                "finetune.py",
                *FLAGS,
                *flags,
                "--output_name=p.h5",
                folder=folder,
                env={**shared, "JAX_PROCESS_ID": str(i)},
            )
            for i, folder in enumerate((workplace, other))  # each with a disk of its own: the second has no save
        ]
        ends.append([(process.communicate(timeout=120)[1], process.returncode) for process in pair])
    assert [code for _, code in ends[0]] == [0, 0]
    for err, code in ends[1]:
        assert code == 2 and "the processes of this run have different saves: give all the same" in err


def test_a_split_of_hardly_any_weight_is_refused(workplace: Path) -> None:
    with pytest.raises(InputError, match="5 devices divide 0% of the weights evenly: choose another number of devices"):
        run_finetune(FinetuneSettings(data="story.txt", model="tiny", length=32, devices=5, shard=True))


@pytest.mark.parametrize("flags", [["--shard"], pytest.param(["--devices=2"], marks=pytest.mark.slow)])
def test_samples_are_drawn_on_several_devices(workplace: Path, capsys: pytest.CaptureFixture, flags: list[str]) -> None:
    typed = [*FLAGS, *flags, "--sample_every=2", "--steps_per_epoch=2", "--num_epoch=1", "--output_name=s.h5"]
    assert main(["finetune", *typed]) == 0
    assert "sample: " in capsys.readouterr().out


def test_more_devices_than_jax_sees_are_refused(workplace: Path) -> None:
    result = run_script("finetune.py", *FLAGS, "--devices=3", folder=workplace, env=TWO)
    assert result.returncode == 2
    assert result.stderr.strip() == "finetune.py: --devices 3: JAX sees 2 (cpu): give that many or fewer"
