"""What `watch` tells its page: which runs there are, and what each has written since the last request."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from gpt_tf2 import InputError
from gpt_tf2.commands.watch import WatchSettings, find_output
from gpt_tf2.serving.page_files import FOLDER as SHARED_FOLDER
from gpt_tf2.storage.locks import write_alone
from gpt_tf2.training.loggers.history_file import HISTORY, HistoryFile
from gpt_tf2.training.loggers.logger import LoggedRun
from gpt_tf2.watching import app
from gpt_tf2.watching.app import make_app

LOCAL = "http://127.0.0.1"


def open_history(folder: Path) -> HistoryFile:
    """Begins the history of a run, as the run does."""
    return HistoryFile(LoggedRun(folder.name, {"lr": 0.1}), folder / HISTORY, 9)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[HistoryFile]:
    """The history of a run that writes `book.h5`."""
    history = open_history(tmp_path / "book")
    yield history
    history.file.close()


def ask(client: TestClient, **positions: str) -> dict[str, dict]:
    """The runs by name."""
    return {run["name"]: run for run in client.get("/runs", params=positions).json()["runs"]}


def read_steps(run: dict) -> list[int]:
    return [json.loads(line)["step"] for line in run["lines"].splitlines()]


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return TestClient(make_app([tmp_path]), LOCAL)


def test_only_what_was_appended_is_read(client: TestClient, book: HistoryFile) -> None:
    book.log({"loss/training": 3.0}, 1)
    first = ask(client)["book"]
    assert read_steps(first) == [0, 1] and first["replaces"] and first["complete"]
    assert ask(client, book=first["position"])["book"] == first | {"lines": "", "replaces": False}
    book.log_text("sample", "é", 2)
    with Path(book.name).open("a") as file:
        file.write('{"step": 3')  # that is still being written
    second = ask(client, book=first["position"])["book"]
    assert read_steps(second) == [2] and not second["replaces"]
    with Path(book.name).open("a") as file:
        file.write("}\n")
    assert read_steps(ask(client, book=second["position"])["book"]) == [3]


def test_a_new_run_of_the_same_name_replaces_the_old_one(client: TestClient, book: HistoryFile, tmp_path: Path) -> None:
    for step in range(1, 3):
        book.log({"loss/training": 3.0}, step)
    position = ask(client)["book"]["position"]
    again = open_history(tmp_path / "book")
    with again.file:
        for step in range(1, 9):
            again.log({"loss/training": 3.0}, step)
        run = ask(client, book=position)["book"]
    assert read_steps(run) == list(range(9)) and run["replaces"]


def test_a_run_that_is_written_over_in_the_same_file_is_noticed(client: TestClient, tmp_path: Path) -> None:
    """A file system gives the number of a deleted file to the next one."""
    lines = [f'{{"step": {step}, "time": 1{step}.5}}\n' for step in range(9)]
    history = tmp_path / "book" / HISTORY
    history.parent.mkdir()
    history.write_text("".join(lines[:3]))
    position = ask(client)["book"]["position"]
    history.write_text("".join(lines).replace(": 1", ": 2"))
    assert read_steps(ask(client, book=position)["book"])[:2] == [0, 2]


def test_a_long_history_comes_in_parts(client: TestClient, book: HistoryFile, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 20):
        book.log({"loss/training": 3.0}, step)
    monkeypatch.setattr(app, "MOST_BYTES", 300)
    steps, position, is_complete = [], "", False
    while not is_complete:
        run = ask(client, book=position)["book"]
        steps += read_steps(run)
        position, is_complete = run["position"], run["complete"]
    assert steps == list(range(20))


def test_what_all_runs_tell_at_once_is_bounded(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MOST_BYTES", 300)
    for name in "abc":
        history = open_history(tmp_path / name)
        with history.file:
            for step in range(1, 9):
                history.log({"loss/training": 3.0}, step)
    steps, positions, is_complete = dict.fromkeys("abc", ()), {}, False
    while not is_complete:
        runs = ask(client, **positions)
        assert sum(len(run["lines"]) for run in runs.values()) < 600
        steps = {name: (*steps[name], *read_steps(run)) for name, run in runs.items()}
        positions = {name: run["position"] for name, run in runs.items()}
        is_complete = all(run["complete"] for run in runs.values())
    assert steps == dict.fromkeys("abc", tuple(range(9)))


def test_a_damaged_line_without_end_is_passed_over(
    client: TestClient, book: HistoryFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MOST_BYTES", 300)
    with Path(book.name).open("a") as file:
        file.write("\0" * 1000 + "\n")
    book.log({"loss/training": 3.0}, 1)
    lines, position, is_complete = "", "", False
    while not is_complete:
        run = ask(client, book=position)["book"]
        assert run["position"] != position
        lines += run["lines"]
        position, is_complete = run["position"], run["complete"]
    assert json.loads(lines.splitlines()[-1])["step"] == 1 and lines.count("\n") == 3


def test_a_name_that_is_not_text_stays_the_same(client: TestClient, tmp_path: Path) -> None:
    open_history(tmp_path / os.fsdecode(b"b\xffk")).file.close()
    (name, run), *_ = ask(client).items()
    assert not ask(client, **{name: run["position"]})[name]["lines"]


def test_positions_that_cannot_be_begin_again(client: TestClient, book: HistoryFile) -> None:
    start, end, digest = ask(client)["book"]["position"].split("-")
    for position in (
        "x",
        f"{start}-{10**17}-{digest}",
        f"{start}-{end}",
        f"{end}-{start}-{digest}",
        f"0-{end}-{'0' * 16}",
    ):
        run = ask(client, book=position)["book"]
        assert read_steps(run) == [0] and run["replaces"]


def test_runs_appear_and_say_whether_they_run(client: TestClient, tmp_path: Path) -> None:
    assert ask(client) == {}
    with open_history(tmp_path / "b").file, open_history(tmp_path / "a").file:
        with write_alone(tmp_path / "a.h5", "output", tmp_path / "a"):
            runs = ask(client)
            assert [(name, run["running"]) for name, run in runs.items()] == [("a", True), ("b", False)]
        assert not ask(client)["a"]["running"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    outputs = [tmp_path / name / "m.h5" for name in ("one", "two")]
    for output in outputs:
        open_history(output.with_suffix("")).file.close()
    client = TestClient(make_app([*outputs, outputs[0]]), LOCAL)
    assert list(ask(client)) == [str(output.with_suffix("")) for output in outputs]


def test_a_run_that_prepares_its_data_is_there(tmp_path: Path) -> None:
    client = TestClient(make_app([tmp_path / "m.h5"]), LOCAL)
    assert ask(client) == {}
    with write_alone(tmp_path / "m.h5", "output", tmp_path / "m"):
        run = ask(client)["m"]
        assert run["running"] and run["lines"] == ""


def test_the_page_and_all_that_it_loads_is_served_under_a_strict_policy(client: TestClient) -> None:
    start = client.get("/")
    assert start.headers["content-type"] == "text/html; charset=utf-8"
    files = {file.name: file for folder in (SHARED_FOLDER, app.FOLDER) for file in folder.iterdir()}
    loaded, unread = set(), re.findall(r'(?:href|src)="page/(.*?)"', start.text)
    while unread:
        name = unread.pop()
        if name not in loaded:
            loaded.add(name)
            unread += re.findall(r'from "\./(.*?)"', files[name].read_text()) if name.endswith(".js") else []
    assert loaded == {*app.SHARED, *(file.name for file in app.FOLDER.iterdir())} - {"index.html"}
    for answer in (start, *(client.get(f"/page/{name}") for name in loaded)):
        assert answer.status_code == 200 and "default-src 'self'" in answer.headers["content-security-policy"]
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<style|\sstyle=|<script>|\son\w+=", answer.text)


def test_only_who_may_ask_is_told(tmp_path: Path, book: HistoryFile) -> None:
    assert TestClient(make_app([tmp_path]), "http://rebound.example").get("/runs").status_code == 403
    client = TestClient(make_app([tmp_path], api_key="lantern"), "http://rebound.example")
    assert client.get("/").status_code == 200 and client.get("/runs").status_code == 401
    assert client.get("/runs", headers={"Authorization": "Bearer lantern"}).json()["runs"]


def test_an_output_is_named_as_in_finetune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_output("output") == Path("output")  # no run has made it yet
    open_history(Path("output/book")).file.close()
    Path("book").mkdir()
    assert find_output("/") == Path("/")
    for name in ("book", "book.h5", "output/book.h5", "output/book"):
        assert find_output(name).with_suffix("") == Path("output/book")
    assert find_output("output") == Path("output") and find_output("./book") == Path("book")  # a run may begin in both
    with pytest.raises(InputError, match="output=poem: no run: give the output of a fine-tuning"):
        find_output("poem")
    with pytest.raises(InputError, match="output=: give the output"):
        WatchSettings(output=())
