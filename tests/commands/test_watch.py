"""`watch` as a process: the address it prints, who may ask, and how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gpt_tf2.cli import main
from gpt_tf2.training.loggers.history_file import HISTORY, HistoryFile
from gpt_tf2.training.loggers.logger import LoggedRun
from helpers.workplace import ROOT

CLI = "import sys; from gpt_tf2.cli import main; sys.exit(main())"


def test_it_shows_what_a_run_writes_until_sigterm(tmp_path: Path) -> None:
    HistoryFile(LoggedRun("book", {}), tmp_path / "output" / "book" / HISTORY, 9).close(True)
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, "watch", "book.h5", "--port=0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("watching output/book.h5 at http://127.0.0.1:"), line + process.communicate()[1]
    url = line.split()[3]
    assert [run["name"] for run in httpx.get(f"{url}/runs", timeout=30).json()["runs"]] == ["book"]
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("", "") and process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.h5", "b.h5"], "--output a.h5: no run: give the output of a fine-tuning, or a folder that holds several"),
        (
            [".", "--host=0.0.0.0"],
            "--host 0.0.0.0: other machines can reach it: set --api_key or GPT_TF2_API_KEY, or --no_auth if everyone "
            "may ask",
        ),
        ([".", "--api_key=a", "--no_auth"], "--no_auth: contradicts --api_key: drop one"),
    ],
)
def test_what_cannot_be_watched_is_an_error(
    arguments: list[str], line: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("GPT_TF2_API_KEY", raising=False)
    assert main(["watch", *arguments]) == 2
    assert capsys.readouterr().err == f"gpt-tf2 watch: {line}\n"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for name in ("gpt_tf2.serving.server", "uvicorn"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["watch"]) == 2
    assert capsys.readouterr().err == "gpt-tf2 watch: watch needs uvicorn: run pip install '.[serve]'\n"
