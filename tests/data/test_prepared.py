"""Prepared tokens: what they hold, when they are reused or prepared again, two processes at once, and kills."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.data import encoding
from gpt_tf2.data import prepared as module
from gpt_tf2.data.prepared import ARRAYS, Tokens, data_sources, prepare
from gpt_tf2.tasks.examples import Skipped, read_examples
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tokenizer import Tokenizer
from helpers import made_up
from helpers.workplace import ROOT, swap_last_tokens

STORIES = 700  # enough for several processes
PREPARE = """
import sys
from gpt_tf2.tokenizer import Tokenizer
from gpt_tf2.data.prepared import prepare
from gpt_tf2.tasks.lookup import find_task
show = lambda done, total: print("done", done, flush=True)
on_wait = lambda: print("waiting", flush=True)
prepare(find_task("cnndm"), "stories", "train", Tokenizer("encoder.json", "vocab.bpe"), None, show, on_wait)
print("ready", flush=True)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    made_up.write_stories(folder / "stories", train=STORIES)
    made_up.write_vocabulary(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `stories/` and a vocabulary."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare_stories(path: str = "stories", cache: str | None = None) -> tuple[Tokens, list[tuple[int, int | None]]]:
    """Return the tokens and the progress that was shown, which is empty if they were reused."""
    shown: list[tuple[int, int | None]] = []
    tokenizer = Tokenizer("encoder.json", "vocab.bpe")
    tokens = prepare(
        find_task("cnndm"), path, "train", tokenizer, cache, lambda *progress: shown.append(progress), pytest.fail
    )
    return tokens, shown


def equal(one: Tokens, other: Tokens) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)


def find_story() -> Path:
    return next(Path("stories").rglob("*.story"))


def test_the_tokens_are_those_of_the_examples_in_order(folder: Path) -> None:
    tokens, shown = prepare_stories()
    assert shown[-1] == (STORIES, STORIES) and shown == sorted(shown)
    tokenizer = Tokenizer("encoder.json", "vocab.bpe")
    examples = [example for _, example in read_examples(find_task("cnndm"), "stories", "train", Skipped())]
    assert len(examples) == len(tokens.shortest) == STORIES
    for number, example in enumerate(examples):
        texts = [example.passage, example.turns[0].prompt, *example.turns[0].completions]
        first, last = tokens.first_spans[number : number + 2]
        assert [tokenizer.decode(tokens.span(i)) for i in range(first, last)] == texts
        lengths = [len(tokenizer.encode(text)) for text in texts]
        assert tokens.shortest[number] == lengths[0] + lengths[1] + min(lengths[2:]) + 1
    assert isinstance(tokens.tokens, np.memmap) and tokens.tokens.dtype == np.uint16


def test_one_process_and_several_prepare_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several, _ = prepare_stories()
    monkeypatch.setattr(encoding, "CHUNK", STORIES)
    one, shown = prepare_stories(cache="elsewhere")
    assert shown == [(STORIES, STORIES)] and equal(one, several)
    assert one.key == several.key and one.content == several.content


def test_processes_encode_with_the_tokens_that_were_added(folder: Path) -> None:
    tokenizer = Tokenizer("encoder.json", "vocab.bpe").with_added(["Rain"])
    tokens = prepare(find_task("cnndm"), "stories", "train", tokenizer, None, lambda *progress: None, pytest.fail)
    assert (np.asarray(tokens.tokens) == tokenizer.token_id("Rain")).any()
    assert "Rain fell" in tokenizer.decode(tokens.tokens)


def touch() -> None:
    os.utime(find_story())


def copy_elsewhere() -> None:
    """Copy the data together with its tokens, and leave a link to the copy."""
    Path("moved").mkdir()
    shutil.copytree("stories", "moved/stories")
    shutil.rmtree("stories")
    Path("stories").symlink_to("moved/stories")


@pytest.mark.parametrize("act", [lambda: None, touch, copy_elsewhere])
def test_tokens_of_unchanged_data_are_reused(act: Callable[[], None], folder: Path) -> None:
    first, _ = prepare_stories()
    act()
    for _ in range(2):
        again, shown = prepare_stories()
        assert shown == [] and again.key == first.key and equal(again, first)
        assert again.content == first.content


def test_tokens_are_found_when_they_move_with_the_data(folder: Path) -> None:
    first, _ = prepare_stories()
    Path("stories").rename("renamed")
    again, shown = prepare_stories("renamed")
    assert shown == [] and (again.key, again.content) == (first.key, first.content) and equal(again, first)


def edit_unnoticed() -> None:
    """Write other content of the same size, and set the old times."""
    path = find_story()
    times = path.stat()
    path.write_text(path.read_text()[::-1].replace("thgilhgih@", "@highlight"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size and path.stat().st_mtime_ns == times.st_mtime_ns


def add_a_story() -> None:
    path = Path("stories/url_lists/all_train.txt")
    path.write_text(path.read_text() + "http://www.cnn.com/another\n")


def change_the_vocabulary() -> None:
    lines = Path("vocab.bpe").read_text().splitlines()
    lines[0] += " another"
    Path("vocab.bpe").write_text("\n".join(lines) + "\n")


def find_kept(name: str) -> Path:
    return next(Path("stories/.gpt_tf2").glob(f"*/{name}"))


def cut_a_file() -> None:
    path = find_kept("tokens")
    os.truncate(path, path.stat().st_size - 2)


def flip_a_byte() -> None:
    path = find_kept("shortest")
    content = bytearray(path.read_bytes())
    content[999] ^= 1
    path.write_bytes(content)


def break_the_account() -> None:
    find_kept("about.json").write_text("{")


@pytest.mark.parametrize(
    "act", [edit_unnoticed, add_a_story, change_the_vocabulary, cut_a_file, flip_a_byte, break_the_account]
)
def test_changed_data_and_damaged_tokens_are_prepared_again(act: Callable[[], None], folder: Path) -> None:
    prepare_stories()
    act()
    assert prepare_stories()[1] != []
    assert prepare_stories()[1] == []


def test_tokens_of_another_format_are_prepared_again(folder: Path) -> None:
    """Those that were kept with `settings`, `stamp` and `bytes`, and `firsts` among the files."""
    first, _ = prepare_stories()
    find_kept("first_spans").rename(find_kept("first_spans").with_name("firsts"))
    find_kept("about.json").write_text(
        '{"settings": "1", "stamp": "2", "content": "3", "dtype": "uint16", "bytes": {"tokens": 4}, "left_out": []}'
    )
    again, shown = prepare_stories()
    assert shown != [] and equal(again, first)
    assert sorted(path.name for path in find_kept("about.json").parent.iterdir()) == sorted([*ARRAYS, "about.json"])


def test_the_key_is_that_of_the_tokens_and_not_of_the_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = prepare_stories()
    monkeypatch.setattr(module, "FORMAT", 999)  # as if the code had changed
    again, shown = prepare_stories()
    assert shown != [] and (again.key, again.content) == (first.key, first.content)
    edit_unnoticed()
    other, _ = prepare_stories()
    assert other.key != first.key and other.content != first.content


@pytest.mark.parametrize(
    ("dataset_path", "digest"),
    [
        ("data", "064ff8eca6cb3d1e9a86ec0a7efe011f1d7bc25dee95bfa295387c0258a4a1ca"),
        ("data/z.txt", "8b4f573946e42743a5cb0a56931097cc7191e4d0b6ad754a90e2040e2c672c95"),
        ("data/**/*.txt", "3e1db9b3818531ac9e56160adbcd99eed5b65a0e299c3272727c46c49e0efe57"),
    ],
)
def test_the_digest_of_a_data_set_never_changes(
    dataset_path: str, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved runs store it: they could not resume if the same files had another digest."""
    monkeypatch.chdir(tmp_path)
    files = {"z.txt": "One.", "b/a.txt": "Two.", "B.csv": "B", ".gpt_tf2/x": "kept", "b/.gpt_tf2/y": "kept"}
    for name, content in files.items():
        path = Path("data") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    Path("data/c").symlink_to("nowhere")
    assert data_sources(dataset_path).digest() == data_sources(str(tmp_path / dataset_path)).digest() == digest


def test_data_that_changes_while_it_is_read_is_an_error(folder: Path) -> None:
    tokenizer = Tokenizer("encoder.json", "vocab.bpe")
    changes = iter([edit_unnoticed])

    def show(done: int, total: int | None) -> None:
        next(changes, lambda: None)()

    with pytest.raises(InputError, match="data=stories: changed while it was read: start again") as caught:
        prepare(find_task("cnndm"), "stories", "train", tokenizer, None, show, pytest.fail)
    assert caught.value.on_command_line() == "--data stories: changed while it was read: start again"
    assert prepare_stories()[1] != []
    assert prepare_stories()[1] == []


def test_a_vocabulary_that_changes_while_data_is_prepared_is_an_error(folder: Path) -> None:
    tokenizer = Tokenizer("encoder.json", "vocab.bpe")
    swap_last_tokens(folder)
    with pytest.raises(InputError, match=r"encoder\.json: has changed since it was opened: start again"):
        prepare(find_task("cnndm"), "stories", "train", tokenizer, None, lambda *progress: None, pytest.fail)


def test_skipped_items_are_reported_each_time(folder: Path) -> None:
    find_story().unlink()
    find_story().write_text("No highlight")
    for _ in range(2):
        tokens, _ = prepare_stories()
        assert len(tokens.shortest) == STORIES - 2
        assert [line.split(":")[0] for line in sorted(tokens.skipped)] == [
            "skipped 1, no highlight",
            "skipped 1, no readable story file",
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
    assert equal(prepare_stories()[0], prepare_stories(cache="elsewhere")[0])


@pytest.mark.slow
def test_a_killed_run_is_not_in_the_way(folder: Path) -> None:
    for _ in range(3):
        killed = start(folder)
        assert killed.stdout.readline().startswith("done")
        children = find_children(killed.pid)
        assert children
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() and is_running(child) for child in children):
            assert time.monotonic() < deadline, "its workers live on"
            time.sleep(0.05)
    assert not list(Path("stories/.gpt_tf2").glob("*/about.json"))[1:]
    tokens, shown = prepare_stories()
    assert shown != [] and equal(tokens, prepare_stories(cache="elsewhere")[0])
    assert len(list(Path("stories/.gpt_tf2").iterdir())) == 1


def find_children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def test_where_nothing_can_be_written_the_error_asks_for_another_folder(folder: Path) -> None:
    Path("stories/.gpt_tf2").write_text("in the way")
    with pytest.raises(InputError, match=r"stories/.gpt_tf2: cannot be written .*cache to another folder") as caught:
        prepare_stories()
    assert "--cache to another folder" in caught.value.on_command_line()
    assert len(prepare_stories(cache="elsewhere")[0].shortest) == STORIES


def test_bad_data_leaves_nothing_beside_it(folder: Path) -> None:
    shutil.rmtree("stories/cnn")
    with pytest.raises(InputError, match="no usable example in train"):
        prepare_stories()
    assert [path.name for path in Path("stories").iterdir()] == ["url_lists"]


@pytest.mark.parametrize("path", ["", "nowhere", "stories/*.none"])
def test_a_data_set_without_files_is_an_error(path: str, folder: Path) -> None:
    with pytest.raises(InputError, match=r"data=.*: no such file: give a file, a folder or a glob"):
        prepare_stories(path)
