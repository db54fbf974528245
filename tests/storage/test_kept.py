"""Kept folders: when one is reused or built again, processes that want it at once, kills, damage and full disks."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpt_tf2.errors import InputError
from gpt_tf2.storage import locks
from gpt_tf2.storage.kept import Kept, Sources, open_or_build
from helpers.workplace import ROOT, list_names

CHANGED = InputError("changed: start again")
FIX = "set `elsewhere`"
# Opens the folder in a process of its own. A build waits while there is a file `slow`, and fails if there is one `bad`.
PROGRAM = """
import sys, time
from pathlib import Path
from gpt_tf2.errors import InputError
from gpt_tf2.storage import locks
from gpt_tf2.storage.kept import Sources, open_or_build

locks.PATIENCE = 0.1
say = lambda line: print(line, flush=True)

def build(folder):
    (folder / "first").write_text(Path("sources/a").read_text().upper())
    say("building")
    while Path("slow").exists():
        time.sleep(0.01)
    if Path("bad").exists():
        raise InputError("bad data")
    (folder / "second").write_bytes(bytes(int(Path("size").read_text()) if Path("size").exists() else 100))
    return {"count": 2}

sources = Sources(lambda: sorted(str(path) for path in Path("sources").absolute().iterdir()))
try:
    with open_or_build(
        Path("home/kept"), "key", sources, build,
        on_wait=lambda: say("waiting"), fix="set `elsewhere`", changed=InputError("changed"),
    ) as kept:
        say((kept.folder / "first").read_text())
except InputError as error:
    say(error)
"""


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with two source files in `sources/`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "a").write_text("one")
    (folder / "b").write_text("two")
    return folder


def list_sources() -> list[str]:
    return sorted(str(path) for path in Path("sources").absolute().iterdir())


def upper_case(folder: Path) -> dict[str, object]:
    """Build a folder: each source in upper case, in one file, and a larger file."""
    (folder / "first").write_text("".join(Path(path).read_text().upper() for path in list_sources()))
    (folder / "second").write_bytes(bytes(range(256)) * 40)
    return {"names": [Path(path).name for path in list_sources()], "mean": 0.1}


def open_kept(
    build: Callable[[Path], dict] = upper_case, key: str = "key", path: Path = Path("home/kept")
) -> tuple[Kept, bool]:
    """Open or build the folder; returns it and whether it was built."""
    built = []

    def counted(folder: Path) -> dict:
        built.append(folder)
        return build(folder)

    with open_or_build(
        path, key, Sources(list_sources), counted, on_wait=pytest.fail, fix=FIX, changed=CHANGED
    ) as kept:
        assert (kept.folder / "first").is_file()
    return kept, bool(built)


def test_a_folder_is_built_once() -> None:
    first, built = open_kept()
    assert built and (first.folder / "first").read_text() == "ONETWO"
    assert first.facts == {"names": ["a", "b"], "mean": 0.1}
    for _ in range(2):
        again, built = open_kept()
        assert not built and again == first
    assert list_names(Path("home")) == ["kept"]
    assert list_names(Path("home/kept")) == ["about.json", "first", "second"]


def replace_a_source() -> None:
    shutil.copy2("sources/a", "copy")
    Path("copy").replace("sources/a")


@pytest.mark.parametrize(
    "touch", [lambda: os.utime("sources/a"), lambda: os.utime("sources/b", (0, 0)), replace_a_source]
)
def test_a_touched_source_changes_nothing(touch: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = open_kept()
    touch()
    touched, built = open_kept()
    assert not built and touched.content == first.content and touched.stamp != first.stamp
    # The new stamp was written back, so the content is not read again.
    monkeypatch.setattr(Sources, "digest", pytest.fail)
    assert open_kept() == (touched, False)


def edit_unnoticed() -> None:
    """Write other content of the same size, and set the old times."""
    times = Path("sources/a").stat()
    Path("sources/a").write_text("eno")
    os.utime("sources/a", ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        edit_unnoticed,
        lambda: Path("sources/a").write_text("longer"),
        lambda: Path("sources/c").write_text("three"),
        lambda: Path("sources/b").unlink(),
        lambda: Path("sources/b").rename("sources/c"),
    ],
)
def test_changed_sources_are_built_again(change: Callable[[], object]) -> None:
    first, _ = open_kept()
    change()
    again, built = open_kept()
    assert built and again.content != first.content
    assert (again.folder / "first").read_text() == "".join(Path(path).read_text().upper() for path in list_sources())
    assert open_kept() == (again, False)


def test_another_key_builds_again() -> None:
    first, _ = open_kept()
    again, built = open_kept(key="other")
    assert built and again.checksums == first.checksums
    assert open_kept(key="other") == (again, False)


def test_a_pipe_among_the_sources_is_not_read() -> None:
    os.mkfifo("pipe")
    assert Sources(lambda: ["pipe"]).digest() == Sources(lambda: ["gone/pipe"]).digest()


def test_the_digest_counts_names_and_not_where_files_lie() -> None:
    def sources_in(folder: str) -> Sources:
        root = Path(folder).absolute()
        return Sources(lambda: sorted(map(str, root.iterdir())), lambda path: os.path.relpath(path, root))

    before = sources_in("sources")
    stamp, digest = before.stamp(), before.digest()
    Path("sources").rename("moved")
    after = sources_in("moved")
    assert after.digest() == digest and after.stamp() != stamp
    Path("moved/a").rename("moved/a2")
    assert after.digest() != digest


@pytest.mark.parametrize("name", ["first", "second", "about.json"])
def test_a_flipped_byte_anywhere_is_noticed(name: str) -> None:
    first, _ = open_kept()
    path = first.folder / name
    whole = path.read_bytes()
    for position in {0, len(whole) // 3, len(whole) - 1} if name != "about.json" else range(0, len(whole), 5):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        again, built = open_kept()
        assert again == first and (built or name == "about.json")
        assert path.read_bytes() == whole or not built


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "second", 100),
        lambda folder: os.truncate(folder / "second", 0),
        lambda folder: (folder / "first").unlink(),
        lambda folder: (folder / "about.json").write_text("{"),
        lambda folder: (folder / "about.json").write_text("[]"),
        lambda folder: (folder / "about.json").write_text('{"settings": "", "stamp": "", "content": "", "bytes": {}}'),
        lambda folder: (folder / "about.json").unlink(),
        lambda folder: (folder / "about.json").unlink() or os.mkfifo(folder / "about.json"),
        lambda folder: (folder / "about.json").write_text("[" * 100_000),
        lambda folder: (folder / "about.json").write_text("9" * 5000),
        lambda folder: (folder / "about.json").write_bytes(b"\xff"),
        lambda folder: os.truncate(folder / "about.json", 1 << 33),
        lambda folder: (folder / "first").replace(folder / "second"),
        shutil.rmtree,
    ],
)
def test_a_damaged_folder_is_built_again(damage: Callable[[Path], object], capsys: pytest.CaptureFixture) -> None:
    first, _ = open_kept()
    first_exists = damage is not shutil.rmtree
    damage(first.folder)
    assert open_kept() == (first, True)
    assert capsys.readouterr().err.count("home/kept: damaged") == first_exists
    assert open_kept() == (first, False)
    assert not capsys.readouterr().err
    assert list_names(first.folder) == ["about.json", "first", "second"]


def test_an_open_file_outlives_its_folder() -> None:
    first, _ = open_kept()
    with (first.folder / "first").open() as file:
        Path("sources/a").write_text("new")
        assert open_kept()[1]
        assert file.read() == "ONETWO"


def fail(folder: Path) -> dict:
    (folder / "first").write_text("half")
    raise InputError("bad data")


def test_a_build_that_fails_leaves_nothing() -> None:
    with pytest.raises(InputError, match="bad data"):
        open_kept(fail, path=Path("new/kept"))
    assert not Path("new").exists()
    first, _ = open_kept()
    with pytest.raises(InputError, match="bad data"):
        open_kept(fail, key="other")
    assert list_names(Path("home")) == ["kept"]
    assert open_kept() == (first, False)


def test_sources_that_change_during_the_build_are_an_error() -> None:
    def edit(folder: Path) -> dict:
        facts = upper_case(folder)
        edit_unnoticed()
        return facts

    with pytest.raises(InputError, match="changed: start again"):
        open_kept(edit)
    assert not Path("home").exists()

    def touch(folder: Path) -> dict:
        os.utime("sources/a")
        return upper_case(folder)

    assert open_kept(touch)[1] and not open_kept()[1]


def test_a_write_error_names_the_folder_and_the_fix() -> None:
    def fill_the_disk(folder: Path) -> dict:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"^home/kept: cannot be written \(No space left on device\): set elsewhere$"):
        open_kept(fill_the_disk)
    assert not Path("home").exists()
    Path("home").write_text("a file in the way")
    with pytest.raises(InputError, match=r"^home: cannot be written \(File exists\): set elsewhere$"):
        open_kept()


def run_in_namespace(shell: str) -> list[str]:
    """Run a shell command that may mount; returns the lines it prints."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no unprivileged mount namespaces here")
    Path("program.py").write_text(PROGRAM)
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", shell],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_a_full_disk_is_an_error_and_leaves_nothing() -> None:
    Path("size").write_text("300000")
    Path("home").mkdir()
    shell = f"mount -t tmpfs -o size=100k tmpfs home; {sys.executable} program.py; ls -A home"
    lines = run_in_namespace(shell)
    assert lines == ["building", "home/kept: cannot be written (No space left on device): set elsewhere"]


def test_a_read_only_folder_is_read_while_it_is_current() -> None:
    program = f"{sys.executable} program.py"
    read_only = "mount --bind home home; mount -o remount,ro,bind home"
    shell = f"{program}; {read_only}; {program}; touch sources/a; {program}; echo uno > sources/a; {program}"
    error = "home/kept: cannot be written (Read-only file system): set elsewhere"
    assert run_in_namespace(shell) == ["building", "ONE", "ONE", "ONE", error]


def test_a_missing_folder_where_nothing_can_be_written_is_an_error() -> None:
    Path("home").mkdir()
    shell = f"mount --bind home home; mount -o remount,ro,bind home; {sys.executable} program.py"
    assert run_in_namespace(shell) == ["home: cannot be written (Read-only file system): set elsewhere"]


@contextlib.contextmanager
def started(count: int) -> Iterator[list[subprocess.Popen]]:
    """Processes that open the folder; killed on exit."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_of_several_processes_one_builds_and_the_others_wait() -> None:
    Path("slow").touch()
    with started(3) as processes:
        first_lines = [process.stdout.readline().strip() for process in processes]
        assert sorted(first_lines) == ["building", "waiting", "waiting"]
        Path("slow").unlink()
        outputs = [process.communicate(timeout=60) for process in processes]
    assert outputs == [("ONE\n", "")] * 3
    assert list_names(Path("home")) == ["kept"]


def test_a_waiting_process_takes_over_from_a_killed_one() -> None:
    Path("slow").touch()
    with started(2) as processes:
        first_lines = [process.stdout.readline().strip() for process in processes]
        builder, waiter = (processes[first_lines.index(line)] for line in ("building", "waiting"))
        assert list_names(Path("home")) == [".kept.gpt_tf2-lock", ".kept.gpt_tf2-unfinished"]
        builder.send_signal(signal.SIGKILL)
        assert waiter.stdout.readline() == "building\n"
        Path("slow").unlink()
        assert waiter.communicate(timeout=60) == ("ONE\n", "")
    assert list_names(Path("home")) == ["kept"]


def test_a_killed_build_is_not_in_the_way() -> None:
    Path("slow").touch()
    for _ in range(2):
        with started(1) as (process,):
            assert process.stdout.readline() == "building\n"
    assert list_names(Path("home")) == [".kept.gpt_tf2-lock", ".kept.gpt_tf2-unfinished"]
    assert open_kept()[1]
    assert list_names(Path("home")) == ["kept"]


def test_a_waiting_process_goes_on_where_a_failed_build_left_nothing() -> None:
    Path("slow").touch()
    Path("bad").touch()
    with started(3) as processes:
        for process in processes:
            process.stdout.readline()
        Path("slow").unlink()
        outputs = [process.communicate(timeout=60) for process in processes]
    assert sorted(outputs) == [("bad data\n", ""), *[("building\nbad data\n", "")] * 2]
    assert not Path("home").exists()


def test_what_killed_builds_of_other_folders_left_is_removed_unless_they_still_run() -> None:
    Path("slow").touch()
    with started(1) as (process,):
        assert process.stdout.readline() == "building\n"
        open_kept(path=Path("home/other"))
        assert list_names(Path("home")) == [".kept.gpt_tf2-lock", ".kept.gpt_tf2-unfinished", "other"]
    open_kept(path=Path("home/other"))
    assert list_names(Path("home")) == ["other"]


def test_a_folder_signed_with_another_key_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("mine").absolute()))
    first, _ = open_kept()
    assert Path("mine/gpt-tf2/key").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("theirs").absolute()))
    assert open_kept() == (first, True) and open_kept() == (first, False)
    Path("theirs/gpt-tf2/key").write_bytes(b"damaged")
    assert open_kept() == (first, True) and open_kept() == (first, False)


def test_links_planted_in_a_kept_folder_are_not_followed() -> None:
    """As they may come with somebody's model."""
    Path("home").mkdir()
    Path("victim").mkdir()
    Path("victim/file").write_text("precious")
    Path("home/.kept.gpt_tf2-unfinished").symlink_to(Path("victim").absolute())
    Path("home/.other.gpt_tf2-unfinished").symlink_to(Path("victim").absolute())
    Path("home/.other.gpt_tf2-lock").touch()
    assert open_kept()[1]
    assert list_names(Path("victim")) == ["file"] and list_names(Path("home")) == ["kept"]
    shutil.rmtree("home/kept")
    Path("home/.kept.gpt_tf2-lock").symlink_to(Path("victim/file").absolute())
    with pytest.raises(InputError, match="home: cannot be written"):
        open_kept()
    assert Path("victim/file").read_text() == "precious"


def test_a_short_wait_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 60)
    Path("slow").touch()
    with started(1) as (process,):
        assert process.stdout.readline() == "building\n"
        threading.Timer(0.3, Path("slow").unlink).start()
        kept, built = open_kept()  # calls `pytest.fail` if it says that it waits
        assert not built and kept.facts == {"count": 2}
