"""Several models: found by name, loaded on first use, unloaded where others need the memory."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from gpt_tf2 import LanguageModel
from gpt_tf2.config import SIZES
from gpt_tf2.serving.models import Models, count_bytes
from helpers.serving import HTTP, Gate, open_served, serving, wait_until


@pytest.fixture(scope="module")
def three(tiny: Path, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models with the same weights."""
    folder = tmp_path_factory.mktemp("three")
    return [Path(shutil.copytree(tiny, folder / name)) for name in ("red", "green", "blue")]


def ask(url: str, model: str | None) -> httpx.Response:
    named = {} if model is None else {"model": model}
    return HTTP.post(f"{url}/v1/completions", json={"prompt": "The", "max_tokens": 3} | named, timeout=60)


def loaded(models: Models) -> set[str]:
    return {served.name for served in models.served.values() if served.worker}


def test_the_model_used_least_recently_makes_room(three: list[Path]) -> None:
    models = open_served(*three, memory=1)
    size = models.served["red"].size
    models = open_served(*three, memory=2.5 * size / 1e9)
    models.load_first()
    with serving(models) as url:
        assert [model["id"] for model in HTTP.get(f"{url}/v1/models").json()["data"]] == ["red", "green", "blue"]
        assert loaded(models) == {"red"}
        assert HTTP.post(f"{url}/tokenize", json={"model": "blue", "prompt": "The"}).json()["count"] == 1
        for model, expected in [
            ("green", {"red", "green"}),
            ("red", {"red", "green"}),
            ("blue", {"red", "blue"}),  # green was used before red
            ("green", {"green", "blue"}),
        ]:
            assert ask(url, model).json()["model"] == model
            assert loaded(models) == expected
        refused = ask(url, None)
        assert refused.status_code == 400 and "red, green, blue" in refused.json()["error"]["message"]
    assert loaded(models) == set()


def test_a_model_in_use_is_never_unloaded(three: list[Path]) -> None:
    size = open_served(three[0]).served["red"].size
    models, gate = open_served(*three, memory=1.5 * size / 1e9), Gate()
    gate.before(models)
    with serving(models) as url, ThreadPoolExecutor(1) as threads:
        gate.shut()
        running = threads.submit(ask, url, "red")
        wait_until(lambda: models.served["red"].jobs == 1)
        refused = ask(url, "green")
        assert refused.status_code == 503 and refused.headers["retry-after"]
        gate.open()
        assert running.result().status_code == 200
        assert ask(url, "green").status_code == 200 and loaded(models) == {"green"}


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_own(three: list[Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(three[0], tmp_path / "broken"))
    models = open_served(three[0], broken)
    weights = broken / "model.ckpt.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[:1000])
    models.load_first()
    with serving(models) as url:
        for _ in range(2):
            failed = ask(url, "broken")
            assert failed.status_code == 503 and "broken" in failed.json()["error"]["message"]
        assert ask(url, "red").status_code == 200


def test_the_memory_of_124m_is_that_of_its_weights_and_cache() -> None:
    assert count_bytes(SIZES["124M"], 4, 0) == 124_439_808 * 4
    assert count_bytes(SIZES["124M"], 4, 8) - count_bytes(SIZES["124M"], 4, 0) == 8 * 1024 * 12 * 2 * 768 * 4
