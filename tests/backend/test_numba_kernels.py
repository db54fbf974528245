"""Numba's functions: the cache of their machine code is used, and no fault of it stops them."""

from collections.abc import Callable
from pathlib import Path

import numba.core.config
import pytest
from numba.core import caching

from gpt_tf2.backend.numba_kernels import compile_kernel


def add_one(x: int) -> int:
    return x + 1


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Numba's cache folder."""
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def run_kernel() -> bool:
    """Return whether the machine code came from the cache."""
    kernel = compile_kernel(add_one)
    assert kernel(1) == 2
    return bool(kernel.stats.cache_hits)


def test_machine_code_is_cached(folder: Path) -> None:
    assert [run_kernel(), run_kernel()] == [False, True]
    assert len(list(folder.rglob("*.nbi"))) == 1


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [empty, flip_a_byte])
def test_a_damaged_cache_is_replaced(damage: Callable[[Path], None], folder: Path) -> None:
    run_kernel()
    damage(next(folder.rglob("*.nbi")))
    assert [run_kernel(), run_kernel()] == [False, True]


def test_outdated_code_does_not_pile_up(folder: Path) -> None:
    run_kernel()
    next(folder.rglob("*.nbi")).write_bytes(b"")
    assert [run_kernel(), run_kernel()] == [False, True]
    assert len(list(folder.rglob("*.nbc"))) == 1


def test_without_a_place_to_cache_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    kernel = compile_kernel(add_one)
    assert kernel(1) == 2


def test_on_a_full_disk_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", fail)
    assert [run_kernel(), run_kernel()] == [False, False]


def test_processes_that_compile_at_once_do_not_mix_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find an empty index. The index that stays is of the one, the code that is written last is of the other."""
    assert compile_kernel(add_one)(1.5) == 2.5
    with monkeypatch.context() as late:
        late.setattr(caching.IndexDataCacheFile, "_load_index", lambda file: {})
        late.setattr(caching.IndexDataCacheFile, "_save_index", lambda file, overloads: None)
        assert compile_kernel(add_one)(1) == 2
    assert compile_kernel(add_one)(1.5) == 2.5
