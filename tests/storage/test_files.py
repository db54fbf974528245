"""Writing files: links, modes, devices and FIFOs, failures, kills, and several writers at once."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write, check_output, write_text
from helpers.workplace import ROOT, list_names

# Writes one letter over and over, `count` times, pausing within each write.
WRITER = """
import sys, time
from pathlib import Path
from gpt_tf2.storage.files import atomic_write
letter, count = sys.argv[1], int(sys.argv[2])
for _ in range(count):
    with atomic_write("file") as temporary, temporary.open("w") as file:
        for _ in range(20):
            file.write(letter * 1000)
            file.flush()
            time.sleep(0.0002)
        print("wrote", flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start_writer(letter: str, count: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, letter, str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_file_gets_its_name_when_it_is_complete() -> None:
    with atomic_write("new/file") as temporary:
        temporary.write_text("half")
        assert list_names(Path("new")) == [temporary.name]
    assert Path("new/file").read_text() == "half" and list_names(Path("new")) == ["file"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(Path("new/file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(error: BaseException) -> None:
    write_text("file", "old")
    with pytest.raises((InputError, KeyboardInterrupt)), atomic_write("file") as temporary:
        temporary.write_text("new")
        raise error
    assert Path("file").read_text() == "old" and list_names(Path()) == ["file"]


def test_the_old_files_mode_stays_and_nobody_sees_more_meanwhile() -> None:
    write_text("file", "old")
    Path("file").chmod(0o640)
    with atomic_write("file") as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("new")
    assert stat.S_IMODE(Path("file").stat().st_mode) == 0o640 and Path("file").read_text() == "new"


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_file_is_replaced(exists: bool) -> None:
    Path("elsewhere").mkdir()
    if exists:
        Path("elsewhere/real").write_text("old")
    Path("link").symlink_to("elsewhere/real")
    write_text("link", "new")
    assert Path("link").is_symlink() and Path("elsewhere/real").read_text() == "new"
    assert list_names(Path()) == ["elsewhere", "link"] and list_names(Path("elsewhere")) == ["real"]


def test_a_link_planted_under_a_temporary_name_is_not_followed() -> None:
    Path("victim").write_text("precious")
    for name in (".file.tmp", ".file.0123456789abcdef.tmp"):
        Path(name).symlink_to("victim")
    write_text("file", "new")
    assert Path("victim").read_text() == "precious" and Path("file").read_text() == "new"


def test_a_name_of_255_bytes_can_be_written() -> None:
    name = "ä" * 125 + "12.h5"
    write_text(name, "new")
    assert list_names(Path()) == [name]


def test_a_device_a_fifo_and_a_descriptor_are_written_to_and_stay() -> None:
    os.mkfifo("fifo")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("fifo").read_text()))
    reader.start()
    write_text("fifo", "through")
    reader.join(10)
    assert read == ["through"] and stat.S_ISFIFO(Path("fifo").stat().st_mode)
    write_text("/dev/null", "nothing")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    program = "from gpt_tf2.storage.files import write_text; write_text('/dev/stdout', 'two\\n'); print('three')"
    with Path("out").open("w") as out:
        out.write("one\n")
        out.flush()
        subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}, stdout=out, check=True)
    assert Path("out").read_text() == "one\ntwo\nthree\n"


def put_a_folder_in_the_way() -> None:
    Path("file").mkdir()


def put_a_loop_in_the_way() -> None:
    Path("file").symlink_to("file")


def put_a_file_above() -> None:
    Path("above").write_text("")
    Path("file").symlink_to("above/file")


@pytest.mark.parametrize("act", [put_a_folder_in_the_way, put_a_loop_in_the_way, put_a_file_above])
def test_what_cannot_be_replaced_is_an_error_before_the_work(act: Callable[[], None]) -> None:
    act()
    with pytest.raises(InputError, match="file: cannot be written"), atomic_write("file"):
        pytest.fail("the work began")


def test_a_killed_write_leaves_the_old_file_and_the_next_one_removes_what_it_left() -> None:
    write_text("file", "old")
    killed = start_writer("a", 10_000)
    assert killed.stdout.readline() == "wrote\n"
    while not (temporary := list(Path().glob(".file.*.tmp"))):
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    temporary = list(Path().glob(".file.*.tmp")) or temporary
    assert set(Path("file").read_text()) in ({"a"}, set("old"))
    write_text("file", "new")
    assert list_names(Path()) == ["file"]


@pytest.mark.parametrize("rounds", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_of_writers_at_once_each_writes_whole_files(rounds: int) -> None:
    for _ in range(rounds):
        writers = [start_writer(letter, 12) for letter in "ab"]
        seen = set()
        while any(writer.poll() is None for writer in writers):
            if Path("file").exists():
                content = Path("file").read_text()
                assert len(content) == 20_000 and len(set(content)) == 1
                seen.add(content[0])
        assert [writer.communicate() and writer.returncode for writer in writers] == [0, 0]
        assert list_names(Path()) == ["file"]
    assert seen <= set("ab")


def test_an_output_is_checked_before_the_work() -> None:
    check_output("new/file", "choose another")
    assert list_names(Path()) == ["new"] and list_names(Path("new")) == []
    check_output("/dev/null", "choose another")
    with pytest.raises(InputError, match="new: is a folder: choose another"):
        check_output("new", "choose another")
    Path("file").touch()
    with pytest.raises(InputError, match=r"file: cannot be written to .*: choose another"):
        check_output("file/below", "choose another")
