"""`evaluate` on several devices and in several processes of JAX: the figures of one device, also after a kill."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from helpers import made_up
from helpers.processes import find_free_port, run_script, start_script
from helpers.workplace import fill_workplace, list_names

pytestmark = pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "jax", reason="needs JAX")
TWO = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
MODEL = ["--model_path=models/tiny"]
ANSWERS = [*MODEL, "--data_loader=coqa", "--dataset_path=talks", "--output_length=8", "--top_k=40", "--batch_size=2"]
SUMMARIES = [*MODEL, "--data_loader=cnndm", "--dataset_path=stories", "--output_length=8", "--temperature=0"]
TEXT = [*MODEL, "--dataset_path=story.txt", "--batch_size=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, two data sets, and in `one/` what one device makes of them."""
    folder = tmp_path_factory.mktemp("devices")
    fill_workplace(folder)
    made_up.write_conversations(folder / "talks", dev=9)
    made_up.write_stories(folder / "stories", test=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["evaluate", *ANSWERS, "--output_file=one/a.json"]) == 0
        assert main(["evaluate", *SUMMARIES, "--output_file=one/s.txt"]) == 0
        assert main(["evaluate", *TEXT, "--output_file=one/t.txt"]) == 0
    return folder


def are_those_of_one_device(folder: Path, *names: str) -> bool:
    return all((folder / name).read_bytes() == (folder.parent / "one" / name).read_bytes() for name in names)


def start_pair(folder: Path, *flags: str, **environment: str) -> list[subprocess.Popen]:
    """Starts two processes of one evaluation."""
    address = f"127.0.0.1:{find_free_port()}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": "", **environment}
    return [
        start_script("evaluate.py", *flags, folder=folder, env={**shared, "JAX_PROCESS_ID": str(number)})
        for number in range(2)
    ]


def finish(processes: list[subprocess.Popen]) -> tuple[list[int], list[str], list[str]]:
    """The exit codes of processes, what they print and their errors, without the lines of JAX's transport."""
    printed = [process.communicate(timeout=120) for process in processes]
    outs = ["".join(line for line in out.splitlines(True) if not line.startswith("[Gloo]")) for out, _ in printed]
    return [process.returncode for process in processes], outs, [err for _, err in printed]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (ANSWERS, ["a.json", "a.scores.json"]),
        (SUMMARIES, ["s.txt", "s.scores.json"]),
        (TEXT, ["t.scores.json"]),
    ],
)
def test_two_devices_make_what_one_makes(flags: list[str], names: list[str], folder: Path) -> None:
    name = names[0].replace(".scores.json", ".txt")
    result = run_script("evaluate.py", *flags, "--devices=2", f"--output_file=two/{name}", folder=folder, env=TWO)
    assert (result.returncode, result.stderr) == (0, "")
    assert are_those_of_one_device(folder / "two", *names)
    assert flags == TEXT or "2 devices" in result.stdout


@pytest.mark.slow
def test_two_processes_of_two_devices_make_what_one_makes(folder: Path) -> None:
    codes, outs, errors = finish(start_pair(folder, *ANSWERS, "--output_file=pair/a.json", **TWO))
    assert (codes, errors) == ([0, 0], ["", ""])
    assert "4 devices" in outs[0] and "overall" in outs[0] and outs[1] == ""
    assert list_names(folder / "pair") == ["a.json", "a.scores.json"]
    assert are_those_of_one_device(folder / "pair", "a.json", "a.scores.json")


@pytest.mark.slow
@pytest.mark.parametrize("later", [1, 2])
def test_after_a_kill_another_number_of_processes_resumes(later: int, folder: Path) -> None:
    flags = [*ANSWERS, f"--output_file=killed{later}/a.json"]
    processes = start_pair(folder, *flags)
    partial = folder / f"killed{later}" / "a.json.partial.1"
    while not partial.exists() or partial.read_bytes().count(b"\n") < 3:
        assert processes[1].poll() is None, processes[1].stderr.read()
        time.sleep(0.002)
    processes[1].send_signal(signal.SIGKILL)
    codes, _, errors = finish(processes)
    assert codes == [2, -signal.SIGKILL]
    assert errors[0].startswith("evaluate.py: another process of this run has ended") and errors[0].count("\n") == 1
    assert list_names(partial.parent) == ["a.json.partial", "a.json.partial.1"]
    again = start_pair(folder, *flags) if later == 2 else [start_script("evaluate.py", *flags, folder=folder)]
    codes, outs, errors = finish(again)
    assert set(codes) == {0} and set(errors) == {""} and "resuming after" in outs[0]
    assert list_names(partial.parent) == ["a.json", "a.scores.json"]
    assert are_those_of_one_device(partial.parent, "a.json", "a.scores.json")


def test_more_devices_than_jax_sees_are_refused(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    made_up.write_conversations(Path("talks"), dev=1)
    assert main(["evaluate", *ANSWERS, "--devices=99"]) == 2
    assert "--devices 99: JAX sees " in (err := capsys.readouterr().err) and err.count("\n") == 1
    assert not Path("output").exists()
