"""Kept conversions: when one is reused or converted again, two processes at once, kills, read-only folders."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.decoding import conversion as module
from gpt_tf2.decoding.conversion import conversion_folder, open_conversion
from gpt_tf2.errors import InputError
from gpt_tf2.storage import kept
from helpers.workplace import ROOT, list_names

# Opens the decoder in a process of its own. With a file `slow`, converting takes as long as the file is there.
PROGRAM = """
import sys, time
from pathlib import Path
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.decoding.engine import open_decoder
from gpt_tf2.errors import InputError
from gpt_tf2.storage import locks

locks.PATIENCE = 0.1
say = lambda line: print(line, flush=True)

def show(done, total):
    say("converting")
    while Path("slow").exists():
        time.sleep(0.01)

try:
    decoder = open_decoder(open_model("models/tiny"), "cpu", "float32", say, show)
    print("logits", decoder.extend(decoder.begin(), [[1, 2, 3]]).sum())
except InputError as error:
    print(error)
print("TensorFlow", "tensorflow" in sys.modules)
"""


@pytest.fixture
def model(workplace: Path) -> OpenedModel:
    return open_model("models/tiny")


def open_fake(model: OpenedModel, precision: str = "int8") -> tuple[module.Conversion, bool]:
    """Open a conversion whose files are made up; returns it and whether it was converted."""
    converted = []

    def convert(folder: Path) -> tuple[float, float] | None:
        converted.append(folder)
        (folder / "head.npy").write_bytes(bytes(1000))
        return (10.5, 10.25) if precision == "int8" else None

    with open_conversion(model, "native", precision, convert, pytest.fail) as conversion:
        assert (conversion.folder / "head.npy").stat().st_size == 1000
    return conversion, bool(converted)


@pytest.mark.parametrize(("precision", "perplexity"), [("int8", (10.5, 10.25)), ("float32", None)])
def test_a_conversion_is_reused_with_its_perplexities(
    precision: str, perplexity: tuple[float, float] | None, model: OpenedModel
) -> None:
    first, converted = open_fake(model, precision)
    assert converted and first.perplexity == perplexity
    assert first.folder == conversion_folder(model.path, "native", precision)
    os.utime("models/tiny/model.ckpt.index")
    assert open_fake(model, precision) == (first, False)
    # Moved together with the checkpoint, it is still reused.
    Path("models/tiny").rename("models/other")
    moved, converted = open_fake(open_model("models/other"), precision)
    assert not converted and moved.folder == Path("models/other/.gpt_tf2") / first.folder.name


def test_a_conversion_is_converted_again_if_anything_it_depends_on_changes(
    model: OpenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_fake(model)
    assert open_fake(model, "float32")[1] and not open_fake(model)[1]  # one folder for each precision
    graph = conversion_folder(model.path, "native", "int8") / "head.npy"
    graph.write_bytes(bytes(500) + b"\1" + bytes(499))
    assert open_fake(model)[1] and not open_fake(model)[1]
    with Path("models/tiny/model.ckpt.data-00000-of-00001").open("r+b") as file:
        file.seek(1000)
        file.write(b"\1\2\3\4")
    assert open_fake(model)[1] and not open_fake(model)[1]
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, n_head=1))
    assert open_fake(other)[1] and open_fake(model)[1] and not open_fake(model)[1]
    monkeypatch.setitem(module.FORMATS, "native", 999)
    assert open_fake(model)[1] and not open_fake(model)[1]


def test_a_conversion_of_an_earlier_version_is_converted_again(model: OpenedModel) -> None:
    folder = conversion_folder(model.path, "native", "int8")
    folder.mkdir(parents=True)
    (folder / "head.npy").write_bytes(bytes(1000))
    (folder / "about.json").write_text(
        '{"format": 2, "stamp": "1", "content": "2", "files": {"head.npy": [1000, 3]}, "perplexity": []}'
    )
    assert open_fake(model)[1] and not open_fake(model)[1]


def test_a_checkpoint_that_changes_while_it_is_converted_is_an_error(model: OpenedModel) -> None:
    def convert(folder: Path) -> None:
        Path("models/tiny/hparams.json").write_text("{}")

    message = f"{model.path}: changed while it was converted: start again"
    with pytest.raises(InputError, match=message), open_conversion(model, "native", "int8", convert, pytest.fail):
        pass
    assert not Path("models/tiny/.gpt_tf2").exists()


def start_backend() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_first_runs_convert_once_even_after_a_kill(model: OpenedModel) -> None:
    Path("slow").touch()
    killed = start_backend()
    assert killed.stdout.readline() == "converting\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    runs = [start_backend() for _ in range(2)]
    lines = [run.stdout.readline() for run in runs]
    assert sorted(lines) == ["converting\n", f"{model.path}: another process is converting or opening it: waiting\n"]
    Path("slow").unlink()
    outputs = [run.communicate(timeout=120)[0].splitlines() for run in runs]
    converting, waiting = sorted(outputs, key=len, reverse=True)
    assert any("converted in" in line for line in converting) and converting[-1] == "TensorFlow False"
    assert waiting == [converting[-2], "TensorFlow False"] and waiting[0].startswith("logits")
    assert list_names(Path("models/tiny/.gpt_tf2")) == ["litert-model.ckpt-float32"]


@pytest.mark.slow
def test_a_read_only_model_is_converted_into_the_users_cache_folder(model: OpenedModel) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no unprivileged mount namespaces here")
    Path("program.py").write_text(PROGRAM)
    shell = f"mount --bind models models; mount -o remount,ro,bind models; {sys.executable} program.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}

    def run(command: list[str], cache: str) -> list[str]:
        variables = {**environment, "XDG_CACHE_HOME": str(Path(cache).absolute())}
        result = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    read_only = ["unshare", "-rm", "sh", "-ec", shell]
    converted = run(read_only, "cache")
    assert converted[0] == "converting" and "cache/gpt-tf2/conversions-" in converted[-3]
    assert run(read_only, "cache") == [converted[-2], "TensorFlow False"]
    Path("blocked").write_text("a file in the way")
    Path("tmp").mkdir()
    environment["TMPDIR"] = str(Path("tmp").absolute())
    assert "tmp/gpt-tf2-" in run(read_only, "blocked")[-3]
    # A conversion of the same user that lies beside the model is read there.
    shutil.rmtree("cache/gpt-tf2", ignore_errors=True)
    written = run([sys.executable, "program.py"], "cache")
    assert run(read_only, "cache") == [written[-2], "TensorFlow False"]


def test_a_conversion_is_cached_where_the_folder_cannot_be_written(
    model: OpenedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "is_writable", lambda folder: False)
    first, converted = open_fake(model)
    assert converted and first.folder.is_relative_to(tmp_path / "cache/gpt-tf2")
    assert open_fake(model) == (first, False) and not Path("models/tiny/.gpt_tf2").exists()


def test_a_conversion_that_came_with_the_model_is_converted_again(
    model: OpenedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody else has another key in another cache folder."""
    open_fake(model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert open_fake(model)[1] and not open_fake(model)[1]
