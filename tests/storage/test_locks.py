"""Locks: held by one, lifted by a kill, and nothing in the way where they cannot be had."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from gpt_tf2.errors import InputError
from gpt_tf2.storage import locks
from gpt_tf2.storage.locks import hold_lock, write_alone
from helpers.workplace import ROOT, list_names

PROGRAM = """
import sys, time
from pathlib import Path
from gpt_tf2.storage.locks import write_alone
with write_alone(Path("new/out.h5"), "output_name", Path("new/out")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    return tmp_path


def write() -> None:
    with write_alone(Path("new/out.h5"), "output_name", Path("new/out")):
        pass


def test_a_second_process_is_refused_until_the_first_ends_or_is_killed() -> None:
    write()
    assert not Path("new").exists()
    for end in (signal.SIGKILL, None):
        holder = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout.readline() == "held\n"
        message = "new/out.h5: another process is writing it: wait for its end, or choose another output_name"
        with pytest.raises(InputError, match=message):
            write()
        if end:
            holder.send_signal(end)
        holder.communicate()
        write()
        assert not Path("new").exists() or list_names(Path("new")) == []


def test_where_no_lock_can_be_made_the_error_names_the_setting() -> None:
    Path("new").symlink_to("/proc")
    with pytest.raises(InputError, match=r"new/out.h5: cannot be written \(.*\): choose another output_name, or fix"):
        write()


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_where_the_file_system_has_no_locks_the_work_goes_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: filelock.BaseFileLock, timeout: float) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    held = []
    with hold_lock(Path("new/out"), pytest.fail):
        held.append(True)
    write()
    assert held
