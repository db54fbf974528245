"""Tokens prepared once: what is kept, when it is used again, two processes at once, and kills."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.data import prepared as module
from gpt_tf2.data.prepared import ARRAYS, Tokens, prepare
from gpt_tf2.tasks import cnndm
from gpt_tf2.tasks.task import LeftOut, read_examples
from gpt_tf2.tokenizer import Tokenizer
from helpers import made_up as madeup
from helpers.processes import ROOT

STORIES = 700  # enough for several processes
PREPARE = """
import sys
from gpt_tf2.tokenizer import Tokenizer
from gpt_tf2.data.prepared import prepare
show = lambda done, total: print("done", done, flush=True)
waiting = lambda: print("waiting", flush=True)
prepare("cnndm", "stories", "train", Tokenizer("encoder.json", "vocab.bpe"), None, show, waiting)
print("ready", flush=True)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    madeup.write_stories(folder / "stories", train=STORIES)
    madeup.write_vocabulary(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `stories/` and a vocabulary."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(path: str = "stories", cache: str | None = None) -> tuple[Tokens, list[tuple[int, int | None]]]:
    """The tokens, and the progress that was shown: none if they were kept."""
    shown: list[tuple[int, int | None]] = []
    tokenizer = Tokenizer("encoder.json", "vocab.bpe")
    tokens = prepare("cnndm", path, "train", tokenizer, cache, lambda *progress: shown.append(progress), pytest.fail)
    return tokens, shown


def same(one: Tokens, other: Tokens) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)


def a_story() -> Path:
    return next(Path("stories").rglob("*.story"))


def test_the_tokens_are_those_of_the_examples_in_their_order(folder: Path) -> None:
    tokens, shown = prepared()
    assert shown[-1] == (STORIES, STORIES) and shown == sorted(shown)
    tokenizer = Tokenizer("encoder.json", "vocab.bpe")
    examples = [example for _, example in read_examples(cnndm, "stories", "train", LeftOut())]
    assert len(examples) == len(tokens.shortest) == STORIES
    for number, example in enumerate(examples):
        texts = [example.passage, example.turns[0].prompt, *example.turns[0].completions]
        first, last = tokens.firsts[number : number + 2]
        assert [tokenizer.decode(tokens.segment(i)) for i in range(first, last)] == texts
        lengths = [len(tokenizer.encode(text)) for text in texts]
        assert tokens.shortest[number] == lengths[0] + lengths[1] + min(lengths[2:]) + 1
    assert isinstance(tokens.tokens, np.memmap) and tokens.tokens.dtype == np.uint16


def test_one_process_and_several_prepare_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several, _ = prepared()
    monkeypatch.setattr(module, "CHUNK", STORIES)
    one, shown = prepared(cache="elsewhere")
    assert shown == [(STORIES, STORIES)] and same(one, several)


def touch() -> None:
    os.utime(a_story())


def move() -> None:
    Path("moved").mkdir()
    shutil.copytree("stories", "moved/stories")
    shutil.rmtree("stories")
    Path("stories").symlink_to("moved/stories")


@pytest.mark.parametrize("act", [lambda: None, touch, move])
def test_what_is_kept_is_used_again(act: object, folder: Path) -> None:
    first, _ = prepared()
    act()
    for _ in range(2):
        again, shown = prepared()
        assert shown == [] and again.key == first.key and same(again, first)


def edit_unseen() -> None:
    """Another content of the same size, with the old times."""
    path = a_story()
    found = path.stat()
    path.write_text(path.read_text()[::-1].replace("thgilhgih@", "@highlight"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size and path.stat().st_mtime_ns == found.st_mtime_ns


def add_a_story() -> None:
    path = Path("stories/url_lists/all_train.txt")
    path.write_text(path.read_text() + "http://www.cnn.com/another\n")


def change_the_vocabulary() -> None:
    lines = Path("vocab.bpe").read_text().splitlines()
    lines[0] += " another"
    Path("vocab.bpe").write_text("\n".join(lines) + "\n")


def cut_a_file() -> None:
    path = next(Path("stories/.gpt_tf2").glob("*/tokens"))
    os.truncate(path, path.stat().st_size - 2)


def break_the_account() -> None:
    next(Path("stories/.gpt_tf2").glob("*/about.json")).write_text("{")


@pytest.mark.parametrize("act", [edit_unseen, add_a_story, change_the_vocabulary, cut_a_file, break_the_account])
def test_what_has_changed_is_prepared_anew(act: object, folder: Path) -> None:
    prepared()
    act()
    assert prepared()[1] != []
    assert prepared()[1] == []


def test_data_that_changes_while_it_is_read_is_told(folder: Path) -> None:
    tokenizer = Tokenizer("encoder.json", "vocab.bpe")
    changes = iter([edit_unseen])

    def show(done: int, total: int | None) -> None:
        next(changes, lambda: None)()

    with pytest.raises(InputError, match="--dataset_path stories: changed while it was read: start again"):
        prepare("cnndm", "stories", "train", tokenizer, None, show, pytest.fail)
    assert prepared()[1] != []
    assert prepared()[1] == []


def test_what_is_left_out_is_told_each_time(folder: Path) -> None:
    a_story().unlink()
    a_story().write_text("No highlight")
    for _ in range(2):
        tokens, _ = prepared()
        assert len(tokens.shortest) == STORIES - 2
        assert [line.split(":")[0] for line in sorted(tokens.left_out)] == [
            "left out 1, no highlight",
            "left out 1, no story file that can be read",
        ]


def start(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_two_runs_at_once_prepare_once(folder: Path) -> None:
    runs = [start(folder) for _ in range(2)]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [(run.returncode, err) for run, (_, err) in zip(runs, outputs, strict=True)] == [(0, ""), (0, "")]
    assert sorted("done" in out for out, _ in outputs) == [False, True]
    assert all(out.endswith("ready\n") for out, _ in outputs)
    assert same(prepared()[0], prepared(cache="elsewhere")[0])


def test_a_run_killed_half_way_leaves_nothing_in_the_way(folder: Path) -> None:
    for _ in range(3):
        killed = start(folder)
        assert killed.stdout.readline().startswith("done")
        children = processes_of(killed.pid)
        assert children
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() and running(child) for child in children):
            assert time.monotonic() < deadline, "its helpers live on"
            time.sleep(0.05)
    assert not list(Path("stories/.gpt_tf2").glob("*/about.json"))[1:]
    tokens, shown = prepared()
    assert shown != [] and same(tokens, prepared(cache="elsewhere")[0])
    assert sorted(path.suffix for path in Path("stories/.gpt_tf2").iterdir()) == ["", ".lock"]


def processes_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def test_where_nothing_can_be_written_another_folder_is_asked_for(folder: Path) -> None:
    Path("stories/.gpt_tf2").write_text("in the way")
    with pytest.raises(InputError, match=r"stories/.gpt_tf2: cannot be written to .*--cache FOLDER"):
        prepared()
    assert len(prepared(cache="elsewhere")[0].shortest) == STORIES


def test_bad_data_leaves_nothing_beside_it(folder: Path) -> None:
    shutil.rmtree("stories/cnn")
    with pytest.raises(InputError, match="no example of train is left"):
        prepared()
    assert [path.name for path in Path("stories").iterdir()] == ["url_lists"]
