"""Every block of README, start.md and api.md runs, in the order of its page, on a small model.

`models/124M` is a random model of one block and few channels, so what is run is real and only its weights are not. A
fine-tuning has at most `STEPS` steps per epoch; `make demo` trains in full.
Numbers and samples differ between machines: of shown output the words are compared, `…` stands for anything, and
samples are in blocks of language `text`, which are not compared.
"""

import contextlib
import dataclasses
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from gpt_tf2.checkpoints.opened import save_model
from gpt_tf2.cli import main
from gpt_tf2.commands import finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.run import Call, Run, resolve
from gpt_tf2.config import GPT2Config
from gpt_tf2.tokenizer import Tokenizer
from helpers.markdown import Block, list_blocks, list_commands
from helpers.workplace import OPENAI_TINY, ROOT, STORY

SKIPPED = ("make ", "pip install ", "python3 -m venv ", "source ")  # what prepares a machine
NUMBER = re.compile(r"[-+]?\d[\d.,:]*(?:e[-+]\d+)?")
STEPS = 3


@pytest.fixture(scope="module", autouse=True)
def short_runs() -> Iterator[None]:
    """Lets every fine-tuning end soon."""

    def resolve_short(settings: FinetuneSettings, call: Call) -> Run:
        return resolve(dataclasses.replace(settings, steps=min(settings.steps, STEPS)), call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "resolve", resolve_short)
        yield


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what the pages take for granted: the weights of 124M, and a book of the reader's."""
    from gpt_tf2.model import GPT2, random_tensors

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tokenizer = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    config = GPT2Config(n_vocab=tokenizer.n_vocab, n_ctx=1024, n_embd=8, n_head=1, n_layer=1)
    save_model(GPT2(config, read=random_tensors(config, seed=0)), Path("models/124M/model.ckpt"), tokenizer)
    for name in ("book.txt", "held_out.txt"):
        Path(name).write_text(STORY)


def test_the_readmes_commands_and_python_run(clone: None) -> None:
    """Without the demo, whose output its blocks of console show."""
    run_blocks("README.md", [block for block in list_blocks(ROOT / "README.md") if block.language != "console"])


class Ran(NamedTuple):
    """A command that has run. folder: what it has written. output: what it printed."""

    folder: Path
    output: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The demo, which two pages begin with."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return Ran(folder, run_line("gpt-tf2 demo", "the demo"))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/api.md"])
def test_the_blocks_of_a_page_print_what_it_shows(page: str, clone: None, demo: Ran) -> None:
    run_blocks(page, list_blocks(ROOT / page), {"gpt-tf2 demo": demo})


def run_blocks(page: str, blocks: list[Block], ran: Mapping[str, Ran] = MappingProxyType({})) -> None:
    """Runs the blocks of a page, and compares what they print with what it shows.

    ran: commands that have run elsewhere; what they wrote is copied.
    """
    names: dict = {}  # of the Python blocks, which go on from each other
    for block in blocks:
        place = f"{page}:{block.line}"
        if block.language == "python":
            exec(compile(block.content, place, "exec"), names)
        for command in list_commands(block):
            if not command.line.startswith(SKIPPED):
                if done := ran.get(command.line):
                    shutil.copytree(done.folder, ".", dirs_exist_ok=True)
                output = done.output if done else run_line(command.line, place)
                if command.output is not None:
                    check(output, command.output, f"{place}: {command.line}")


def run_line(line: str, place: str) -> str:
    """What a command line prints, stdout and stderr together. Ours run in this process."""
    words = shlex.split(line, comments=True)
    if words[0] != "gpt-tf2" or set(words) & {">", "|", "<", "&&"}:
        line = f'PATH="{Path(sys.executable).parent}:$PATH"; {line}'
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert result.returncode == 0, f"{place}: {line}\n{result.stdout}{result.stderr}"
        return result.stdout + result.stderr
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main(words[1:])
    assert code == 0, f"{place}: {line}\n{output.getvalue()}"
    return output.getvalue()


def check(printed: str, shown: str, place: str) -> None:
    """Fails unless the output has the words shown."""
    pattern = "".join(to_pattern(line) for line in shown.rstrip().splitlines())
    lines = "".join(f"{line}\n" for line in printed.rstrip().splitlines())
    assert re.fullmatch(pattern, lines), f"{place}\nprints\n{printed}\nbut the page shows\n{shown}"


def to_pattern(line: str) -> str:
    """The pattern of a line: a number stands for any, and `…` for any text, or alone on a line for any lines."""
    if line.strip() == "…":
        return "(?:.*\n)*?"
    parts = [NUMBER.sub("0", part) for part in line.rstrip().split("…")]
    escaped = (re.escape(part).replace("0", NUMBER.pattern) for part in parts)
    return re.sub(r"(\\ )+", " +", ".*".join(escaped)) + " *\n"  # a column is as wide as its numbers


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("saved a.h5\n", "saved a.h5\n", True),
        ("saved a.h5\n", "saved b.h5\n", False),
        ("loss 2.89 · 1,250 tokens/s\n", "loss 3.1 · 987 tokens/s\n", True),
        ("1.43e+03 tokens/s\n", "6 tokens/s\n", True),
        ("│ 49.5  │\n", "│ 203.5 │\n", True),
        ("loss 2.89\n", "loss nan\n", False),
        ("a …: 3 tokens\n", "a book.txt: 14 tokens\n", True),
        ("first\n…\nlast\n", "first\nsecond\nthird\nlast\n", True),
        ("first\n…\nlast\n", "first\nlast\n", True),
        ("first\n…\n", "second\nfirst\n", False),
        ("first\n", "first\nsecond\n", False),
        ("", "", True),
        ("", "first\n", False),
    ],
)
def test_shown_output_is_compared_by_its_words(shown: str, printed: str, agree: bool) -> None:
    with contextlib.nullcontext() if agree else pytest.raises(AssertionError):
        check(printed, shown, "here")


def test_a_block_of_console_has_commands_and_outputs() -> None:
    block = Block("console", "$ first \\\n    --flag\none\ntwo\n$ second\n", 1)
    assert [tuple(command) for command in list_commands(block)] == [("first      --flag", "one\ntwo"), ("second", "")]
