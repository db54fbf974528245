"""The last net of the command line, and its streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_tf2 import cli
from gpt_tf2.errors import InputError, to_line
from helpers.workplace import ROOT

COMMAND = f"{sys.executable} -c 'import sys; from gpt_tf2.cli import main; sys.exit(main())'"


def run(line: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a line of a shell, in which `gpt-tf2` is our command."""
    script = line.replace("gpt-tf2", COMMAND)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, encoding="utf-8", errors="replace"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "x.txt"),
            "x.txt: No such file or directory: check the path",
        ),
        (OSError(28, "No space left on device"), "stdout cannot be written (No space left on device): free space"),
        (MemoryError(), "not enough memory: choose"),
        (MemoryError("Unable to allocate 40 GB"), "not enough memory (Unable to allocate 40 GB): choose"),
        (RuntimeError("RESOURCE_EXHAUSTED: 40 GB"), "not enough memory (RESOURCE_EXHAUSTED: 40 GB): choose"),
        (OverflowError("too large"), "a value that cannot be used (too large): check"),
        (UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates"), "a value that cannot be used"),
        (InputError("x" * 1000 + ": fix it"), "fix it"),
        (InputError("a\x1b[2J\udc80\r\nb"), r"a\x1b[2J\udc80 b"),
    ],
)
def test_every_error_of_the_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: Exception, words: str
) -> None:
    def fail(settings: object) -> None:
        raise error

    monkeypatch.setattr("gpt_tf2.commands.plan.print_plan", fail)
    assert cli.main(["plan"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("gpt-tf2 plan: ") and words in err
    assert err.count("\n") == 1 and len(err) <= 301 and err[:-1].isprintable()


def test_a_mistake_of_ours_is_no_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_tf2.commands.plan.print_plan", lambda settings: {}["x"])
    with pytest.raises(KeyError):
        cli.main(["plan"])


def test_a_long_line_keeps_its_beginning_and_its_fix() -> None:
    line = to_line("file.h5: " + "9" * 5000 + ": copy it again")
    assert len(line) == 300 and line.startswith("file.h5: 999") and line.endswith("999: copy it again")
    assert to_line("x" * 300) == "x" * 300 and len(to_line("x" * 301)) == 300


HELP = """
import sys
began = set(sys.modules)
from gpt_tf2.cli import COMMANDS, main
for command in ["", *COMMANDS]:
    try:
        main([*command.split(), "--help"])
    except SystemExit:
        pass
ours = {"gpt_tf2", "shtab"}  # completion's help names the shells
print({name.partition(".")[0] for name in set(sys.modules) - began} - sys.stdlib_module_names - ours, file=sys.stderr)
"""


def test_help_imports_no_library() -> None:
    """It takes a tenth of a second; NumPy alone takes half of that."""
    command = [sys.executable, "-c", HELP]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert result.stderr == "set()\n" and result.stdout.count("usage: gpt-tf2 ") == 1 + len(cli.COMMANDS), result


def test_stdout_that_is_full_or_closed_is_one_line(tmp_path: Path) -> None:
    for redirection, words in ((">/dev/full", "stdout cannot be written (No space left"), (">&-", "stdout is closed")):
        result = run(f"gpt-tf2 --help {redirection}")
        assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1, result
    (tmp_path / "t.txt").write_text("The tide.\n" * 5000)
    result = run(f"gpt-tf2 show-data --data {tmp_path}/t.txt >/dev/full")
    assert result.returncode == 2 and "stdout cannot be written" in result.stderr and result.stderr.count("\n") == 1
    assert run("gpt-tf2 --help 2>&- <&-").returncode == 0


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("The tide.\n" * 50000)
    result = run(f"gpt-tf2 show-data --data {tmp_path}/t.txt | head -1; exit ${{PIPESTATUS[0]}}")
    assert result.returncode == 0 and not result.stderr and result.stdout.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_no_character_is_an_error(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.txt").write_text("Le café 日本\n", encoding="utf-8")
    result = run(f"gpt-tf2 show-data --data {tmp_path}/t.txt", PYTHONIOENCODING=encoding)
    assert result.returncode == 0 and r"\u65e5\u672c" in result.stdout and not result.stderr
