"""Which backend runs, and what is said of a GPU that nothing can use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_tf2.backend.choice import choose_backend, has_driver, has_jax_for_gpu, requested_backend
from gpt_tf2.decoding.engine import choose_engine
from gpt_tf2.errors import InputError
from helpers.workplace import OPENAI_TINY, ROOT

START = """
import os
from gpt_tf2.backend.starting import start_backend
print(start_backend())
start_backend()
print(os.environ["KERAS_BACKEND"])
"""


def test_jax_runs_where_it_has_a_gpu_or_is_alone() -> None:
    assert choose_backend(jax_has_gpu=True, has_tensorflow=True) == "jax"
    assert choose_backend(jax_has_gpu=False, has_tensorflow=True) == "tensorflow"
    assert choose_backend(jax_has_gpu=False, has_tensorflow=False) == "jax"


def test_a_driver_is_seen_unless_its_gpus_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = tmp_path / "nvidiactl"
    assert not has_driver([str(driver)])
    driver.touch()
    assert has_driver([str(tmp_path / "other"), str(driver)])
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not has_driver([str(driver)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert has_driver([str(driver)])


def test_jax_needs_a_plugin_for_cuda() -> None:
    assert has_jax_for_gpu(["no-such-plugin", "jax"])
    assert not has_jax_for_gpu(["no-such-plugin"])


def test_the_environment_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in ("tensorflow", "jax"):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        assert requested_backend() == backend
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(InputError, match="KERAS_BACKEND=torch"):
        requested_backend()


def test_litert_runs_on_tensorflow_and_contradicts_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert choose_engine("auto", None) == "graph"
    with pytest.raises(InputError, match="KERAS_BACKEND=jax"):
        choose_engine("litert", None)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert choose_engine("litert", None) == "litert"


def start_process(code: str, tmp_path: Path, **environment: str) -> tuple[list[str], list[str]]:
    """Runs Python in a process without KERAS_BACKEND. Returns the lines of stdout and of stderr."""
    kept = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES")}
    variables = {**kept, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", **environment}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    return result.stdout.splitlines(), result.stderr.splitlines()


def with_driver(folder: Path) -> str:
    """Python that makes a file count as the driver of a GPU."""
    (folder / "nvidiactl").touch()
    return f"from gpt_tf2.backend import choice; choice.has_driver.__defaults__ = (({str(folder / 'nvidiactl')!r},),)\n"


def test_a_gpu_that_nothing_installed_can_use_is_reported_once(tmp_path: Path) -> None:
    out, errors = start_process(with_driver(tmp_path) + START, tmp_path)
    assert out == ["TensorFlow on CPU", "tensorflow"]
    assert len(errors) == 1 and "GPU" in errors[0] and "pip install '.[gpu]'" in errors[0]


@pytest.mark.slow
def test_tensorflow_runs_if_jax_does_not_see_its_gpu(tmp_path: Path) -> None:
    plugin = tmp_path / "jax_cuda12_plugin-0.0.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: jax-cuda12-plugin\nVersion: 0.0\n")
    out, errors = start_process(with_driver(tmp_path) + START, tmp_path)
    assert out == ["TensorFlow on CPU", "tensorflow"]
    assert len(errors) == 1 and "GPU" in errors[0]


@pytest.mark.slow
def test_jax_runs_without_tensorflow_which_only_writes_its_checkpoints(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['tensorflow'] = None\n"
    out, errors = start_process(hidden + START, tmp_path)
    assert out == ["JAX on cpu", "jax"] and not errors
    read = f"from gpt_tf2 import load_model, save_model\nmodel = load_model({str(OPENAI_TINY / 'model.ckpt')!r})\n"
    read += "print(model.count_params() > 0)\n"
    write = "try:\n  save_model(model, 'x.ckpt')\nexcept ValueError as error:\n  print(error)"
    out, _ = start_process(f"{hidden}{read}{write}", tmp_path)
    assert out[0] == "True" and "pip install tensorflow" in out[1] and len(out) == 2
