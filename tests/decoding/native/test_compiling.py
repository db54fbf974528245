"""Kernels are compiled by two processes at once where they are not kept, and what one cannot do the other does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from numba import types
from numba.core.errors import TypingError

from gpt_tf2.backend.numba_kernels import compile_kernel, is_kept
from gpt_tf2.decoding.kernels.network import find_share, run_share, share_kinds
from gpt_tf2.decoding.kernels.pointers import find_address
from gpt_tf2.decoding.kernels.vectors import HAS_TILES
from gpt_tf2.decoding.native import compiling

pytestmark = pytest.mark.skipif(not HAS_TILES, reason="this processor lacks the instructions")
COMPILE = """
import subprocess, sys
from gpt_tf2.backend.numba_kernels import is_kept
from gpt_tf2.decoding.kernels.network import run_share, share_kinds
from gpt_tf2.decoding.kernels.steps import find_addresses, write_tokens
from gpt_tf2.decoding.native.compiling import compile_meanwhile

kinds = share_kinds("int8")
assert not is_kept(run_share, kinds)
with compile_meanwhile("int8"):
    assert not run_share.stats.cache_misses
assert is_kept(run_share, kinds) and not run_share.overloads, "compiled here"
assert len(write_tokens.overloads) == 1
find_addresses("int8")
assert run_share.stats.cache_hits
"""


@pytest.mark.slow
def test_another_process_compiles_the_network(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True)


def test_where_all_is_kept_no_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    find_share("int8")
    assert is_kept(run_share, share_kinds("int8"))
    monkeypatch.setattr(compiling.subprocess, "Popen", lambda *arguments, **options: pytest.fail("a process starts"))
    with compiling.compile_meanwhile("int8"):
        pass


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent/python"])
def test_a_process_that_fails_stops_nothing(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "is_kept", lambda kernel, kinds: False)
    monkeypatch.setattr(compiling.sys, "executable", program)
    with compiling.compile_meanwhile("int8"):
        pass


def test_the_process_ends_with_what_it_was_started_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    monkeypatch.setattr(compiling, "is_kept", lambda kernel, kinds: False)
    monkeypatch.setattr(compiling, "start_process", lambda precision: sleeping)
    with pytest.raises(KeyError), compiling.compile_meanwhile("int8"):
        raise KeyError
    assert sleeping.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_files_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secrets.py").write_text("open('imported', 'w')")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compiling.sys, "path", [folder for folder in sys.path if folder])
    process = compiling.start_process("int8")
    assert process and process.wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "secrets.py"]


def test_an_address_is_of_a_kernel_that_returns_what_its_callers_expect() -> None:
    double = compile_kernel(lambda x: x + x)
    assert find_address(double, (types.int64,), types.int64)
    with pytest.raises(TypingError, match="returns float64, not int64"):
        find_address(double, (types.float64,), types.int64)
