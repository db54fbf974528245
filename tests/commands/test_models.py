"""The command `models`: released models and one's own, without TensorFlow, and without reading a weight."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints import adapters, hdf5, huggingface
from gpt_tf2.checkpoints.released import DATA, FILES, META
from gpt_tf2.cli import main
from gpt_tf2.config import GPT2Config, adapter_shapes, tensor_shapes
from helpers.workplace import OPENAI_TINY, ROOT

CONFIG = GPT2Config.from_json(OPENAI_TINY / "hparams.json")
RUN = 'data = "texts/story.txt"\nmodel = "124M"\nepochs = 4\nlr = 0.0001\n'
LONG = "output/a_model_whose_name_is_longer_than_its_column.h5"


@pytest.fixture
def models(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model of each format in `models/` and `output/`, and nothing in the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    monkeypatch.setenv("GPT_TF2_BASE_URL", "http://localhost:9")
    tensors = {name: np.zeros(shape, "float32") for name, shape in tensor_shapes(CONFIG).items()}
    factors = {name: np.zeros(shape, "float32") for name, shape in adapter_shapes(CONFIG, 2).items()}
    hdf5.write(Path("output/book.h5"), CONFIG, tensors)
    hdf5.write(Path(LONG), CONFIG, tensors)
    Path("output/hf").mkdir()
    huggingface.write(Path("output/hf/model.safetensors"), CONFIG, tensors)
    adapters.write(
        Path("output/style.h5"), CONFIG, adapters.Base(Path("models/124M/model.ckpt"), {}, "digest"), factors
    )
    for name in ("book", "style"):
        Path("output", name).mkdir()
        Path("output", name, "run.toml").write_text(RUN)
        Path("output", name, "state.h5").write_bytes(b"of a run")
    Path("models/damaged.h5").write_bytes(Path("output/book.h5").read_bytes()[:900])
    return workplace


def test_models_are_listed_in_60_columns(models: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    size = f"{Path('output/book.h5').stat().st_size / 1e6:.1f} MB"
    assert err == "" and max(map(len, out.splitlines())) <= 60
    assert out.startswith(
        "released    parameters     size  place\n"
        "124M           124.4 M  0.50 GB  not downloaded\n"
        "355M           354.8 M  1.42 GB  not downloaded\n"
        "774M           774.0 M  3.10 GB  not downloaded\n"
        "1558M        1,557.6 M  6.23 GB  not downloaded\n"
        "\n"
        "own                                   parameters     size\n"
        "models/damaged.h5                              ?   0.0 MB\n"
        "  damaged, or not written by gpt-tf2"
    )
    figures = f"{'112,560':>11} {size:>8}\n"
    assert f"{'output/book.h5':<36} {figures}  124M on story.txt, epochs 4, lr 0.0001\n" in out
    assert f"{LONG}\n{'':<36} {figures}  -\n" in out
    assert f"{'output/hf':<36} {figures}  -\n" in out
    assert "\n  adapters of 124M on story.txt, epochs 4, lr 0.0001\n" in out


def test_as_json_they_have_their_figures_and_the_settings_of_their_run(
    models: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    own = {model["path"]: model for model in listed["own"]}
    names = ["models/damaged.h5", "models/tiny", LONG, "output/book.h5", "output/hf", "output/style.h5"]
    assert [*own] == names
    assert own["output/book.h5"]["run"]["data"] == "texts/story.txt" and own["output/book.h5"]["base"] is None
    assert own["output/style.h5"]["base"] == "models/124M/model.ckpt"
    factors = adapter_shapes(CONFIG, 2).values()
    assert own["output/style.h5"]["parameters"] == sum(a * b for a, b in factors)
    assert own["models/tiny"]["size"] == sum(path.stat().st_size for path in OPENAI_TINY.glob("model.ckpt.[di]*"))
    assert own["models/damaged.h5"]["problem"] and own["models/damaged.h5"]["parameters"] is None
    assert listed["released"][0]["path"] is None


def test_released_models_are_found_in_models_and_in_the_cache(models: Path, capsys: pytest.CaptureFixture) -> None:
    cached = models / "cache/gpt-tf2/models/355M"
    shutil.copytree(OPENAI_TINY, cached)
    (cached / META).touch()
    shutil.copytree(OPENAI_TINY, "models/774M")
    assert {*FILES} <= {path.name for path in cached.iterdir()}
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "\n355M           112,560   0.5 MB  cache\n774M           112,560   0.5 MB  models/774M\n" in out
    assert f"\ncache: {cached.parent}\n" in out and "own" in out and "models/774M  " not in out
    (cached / DATA).unlink()
    assert main(["models"]) == 0
    assert "\n355M           354.8 M  1.42 GB  not downloaded\n" in capsys.readouterr().out


def test_the_list_needs_no_tensorflow(models: Path) -> None:
    code = "import sys; from gpt_tf2.cli import main; main(['models']); sys.exit('tensorflow' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    listed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert listed.returncode == 0 and "output/book.h5" in listed.stdout, listed.stderr


def test_without_models_the_released_ones_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["models"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5 and not [*tmp_path.iterdir()]
