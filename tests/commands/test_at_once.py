"""Real processes: two that write the same output at once, and ones that are killed at a random moment."""

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from gpt_tf2.storage.locks import SUFFIX
from helpers import made_up
from helpers.finetuning import FLAGS, are_identical, read_hdf5, read_weights
from helpers.markers import skip_on_jax
from helpers.processes import start_script
from helpers.workplace import list_names

pytestmark = skip_on_jax
ROUNDS = 2
KILLS = 3  # of one kind
PREPARED = ["--data_loader=coqa", "--dataset_path=talks", "--model=small", "--length=64", "--output_name=p.h5"]
SHORT = ["--num_epoch=1", "--steps_per_epoch=8", "--sample_every=0"]
ANSWERS = ["--data_loader=coqa", "--dataset_path=talks", "--model=models/small", "--engine=graph", "--output_length=12"]
SAMPLES = ["--model=models/tiny", "--starter=The", "--output_length=40", "--n_samples=40", "--top_k=0"]
# What to run twice at once, what differs, and the file that must be that of one of the two.
AT_ONCE = {
    "finetune": ("finetune.py", [*FLAGS, *SHORT], "output/m.h5"),
    "finetune to TF1": (
        "finetune.py",
        [flag for flag in FLAGS if "output_name" not in flag] + [*SHORT, "--output_name=m/model.ckpt"],
        "output/m/model.ckpt.data-00000-of-00001",
    ),
    "evaluate": ("evaluate.py", [*ANSWERS, "--top_k=0", "--limit=4", "--output_file=a.json"], "a.json"),
    "generate": ("inference.py", [*SAMPLES, "--output_file=s.txt"], "s.txt"),
}


@pytest.fixture
def folder(workplace: Path) -> Path:
    """A folder with a model and a text, and a model and a data set for answers."""
    made_up.write_conversations(workplace / "talks", train=600, dev=60)
    made_up.write_model(workplace / "models" / "small", 64)
    return workplace


def read_output(path: Path) -> object:
    """Return a file's content: of HDF5 the weights, for the files also hold the times of their writing."""
    return {k: v.tobytes() for k, v in read_weights(path).items()} if path.suffix == ".h5" else path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", AT_ONCE)
def test_of_two_at_once_one_is_refused_or_waits_and_the_output_is_whole(kind: str, folder: Path) -> None:
    script, flags, name = AT_ONCE[kind]
    command = {"finetune.py": "finetune", "evaluate.py": "evaluate", "inference.py": "generate"}[script]
    whole = []
    for seed in "12":
        assert main([command, *flags, f"--seed={seed}"]) == 0
        whole.append(read_output(folder / name))
    before = {path for path in folder.rglob("*") if "events.out" not in path.name}
    for _ in range(ROUNDS):
        processes = [start_script(script, *flags, f"--seed={seed}", folder=folder) for seed in "12"]
        results = [(*process.communicate(timeout=300), process.returncode) for process in processes]
        assert any(code == 0 for *_, code in results)
        for _, err, code in results:
            assert code == 0 or (code == 2 and err.count("\n") == 1 and "another process is writing it" in err), err
        assert read_output(folder / name) in whole
        assert {path for path in folder.rglob("*") if "events.out" not in path.name} == before


def kill_at_random(
    script: str, *flags: str, folder: Path, draw: random.Random, watched: Path, within: float = 0.3
) -> bool:
    """Run a script and kill it `within` seconds after it began to write in a folder. Returns whether it still ran."""
    before = list_changes(watched)
    process = start_script(script, *flags, folder=folder, start_new_session=True)
    while process.poll() is None and list_changes(watched) == before:
        time.sleep(0.002)
    time.sleep(draw.uniform(0, within))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def list_changes(folder: Path) -> set[tuple[str, int]]:
    """The files in a folder, locks aside, and when they were changed."""
    changes = set()
    for path in folder.rglob("*"):
        if not path.name.endswith(SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                changes.add((str(path), path.stat().st_mtime_ns))
    return changes


@pytest.mark.slow
def test_killed_fine_tunings_leave_what_can_be_resumed_and_nothing_else(folder: Path) -> None:
    flags = [*FLAGS, "--num_epoch=1", "--steps_per_epoch=60", "--save_every=1", "--resume"]
    assert main(["finetune", *[flag.replace("m.h5", "whole.h5") for flag in flags]]) == 0
    draw, state = random.Random(1), folder / "output" / "m" / "state.h5"
    killed = [
        kill_at_random("finetune.py", *flags, folder=folder, draw=draw, watched=state.parent) for _ in range(KILLS)
    ]
    assert sum(killed) > KILLS / 2
    assert main(["finetune", *flags]) == 0
    assert are_identical(read_hdf5(state), read_hdf5(folder / "output" / "whole" / "state.h5"))
    assert are_identical(read_weights(folder / "output" / "m.h5"), read_weights(folder / "output" / "whole.h5"))
    assert list_names(folder / "output") == ["m", "m.h5", "m.png", "whole", "whole.h5", "whole.png"]
    assert list_names(folder / "output" / "m") == list_names(folder / "output" / "whole")


@pytest.mark.slow
def test_killed_preparations_are_made_again_and_leave_nothing(folder: Path) -> None:
    draw, home = random.Random(2), folder / "talks" / ".gpt_tf2"
    for _ in range(KILLS):
        shutil.rmtree(home, ignore_errors=True)
        kill_at_random("finetune.py", *PREPARED, *SHORT, folder=folder, draw=draw, watched=home)
    assert main(["finetune", *PREPARED, *SHORT]) == 0
    names = list_names(home)
    assert len(names) == 1 and not names[0].startswith(".")
    assert main(["finetune", *PREPARED, *SHORT, "--cache=elsewhere", "--output_name=whole.h5"]) == 0
    assert are_identical(read_weights(folder / "output" / "p.h5"), read_weights(folder / "output" / "whole.h5"))


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") == "jax", reason="LiteRT does not run beside JAX")
def test_killed_conversions_are_made_again_and_leave_nothing(folder: Path) -> None:
    flags = ["--model=models/tiny", "--starter=The", "--output_length=8", "--temperature=0", "--output_file=s.txt"]
    draw, home = random.Random(3), folder / "models" / "tiny" / ".gpt_tf2"
    for _ in range(KILLS):
        shutil.rmtree(home, ignore_errors=True)
        kill_at_random("inference.py", *flags, folder=folder, draw=draw, watched=home, within=3)
    assert main(["generate", *flags]) == 0
    killed = (folder / "s.txt").read_text()
    assert list_names(home) == ["litert-model.ckpt-float32"]
    shutil.rmtree(home)
    assert main(["generate", *flags]) == 0
    assert (folder / "s.txt").read_text() == killed


@pytest.mark.slow
def test_killed_evaluations_make_the_same_predictions_and_leave_nothing(folder: Path) -> None:
    flags = [*ANSWERS, "--top_k=0", "--seed=4", "--batch_size=2"]
    assert main(["evaluate", *flags, "--output_file=e/whole.json"]) == 0
    flags.append("--output_file=e/killed.json")
    draw = random.Random(4)
    killed = [
        kill_at_random("evaluate.py", *flags, folder=folder, draw=draw, watched=folder / "e") for _ in range(KILLS)
    ]
    assert any(killed)
    assert main(["evaluate", *flags]) == 0
    assert (folder / "e/killed.json").read_bytes() == (folder / "e/whole.json").read_bytes()
    assert list_names(folder / "e") == ["killed.json", "killed.scores.json", "whole.json", "whole.scores.json"]
