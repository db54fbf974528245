"""`export`: what it writes, says and refuses."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.cli import main
from gpt_tf2.commands.export import FORMATS
from gpt_tf2.exporting import gguf_file
from helpers.exporting import WIDE
from helpers.markers import skip_on_jax
from helpers.workplace import list_names

pytestmark = skip_on_jax
MISSING = dataclasses.replace(FORMATS["gguf"], imported=("no_such_program",))


def test_without_the_program_it_says_that_nothing_was_compared(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FORMATS, "gguf", MISSING)
    assert main(["export", "tiny", "gguf", "--precision", "q8_0", "--ollama"]) == 0
    assert list_names(Path("output")) == ["tiny-q8_0.Modelfile", "tiny-q8_0.gguf"]
    assert Path("output/tiny-q8_0.Modelfile").read_text().startswith("FROM ./tiny-q8_0.gguf\nPARAMETER num_ctx 64\n")
    printed = capsys.readouterr()
    assert printed.out == "output/tiny-q8_0.gguf\n"
    assert printed.err == "not compared in llama.cpp: pip install llama-cpp-python\n"


@pytest.mark.parametrize(
    ("format", "name", "program"),
    [("keras", "tiny.keras", "Keras"), ("saved_model", "tiny-saved_model", "TensorFlow")],
)
def test_what_arrived_intact_is_kept(
    format: str, name: str, program: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "tiny", format, "--data", "story.txt"]) == 0
    assert list_names(Path("output")) == [name]
    printed = capsys.readouterr()
    assert printed.out == f"output/{name}\n"
    assert printed.err.startswith(f"compared in {program}: largest logit difference ")


@pytest.mark.parametrize("fault", ["other logits", "does not open"])
def test_what_is_another_model_there_is_not_kept(
    fault: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_logits(output: Path) -> gguf_file.LogitsOf:
        if fault == "does not open":
            raise ValueError("Failed to load model from file")
        return lambda ids, steps=0: [np.random.default_rng(0).standard_normal((len(ids), WIDE.n_vocab), "float32")]

    monkeypatch.setitem(FORMATS, "gguf", dataclasses.replace(MISSING, imported=("numpy",)))
    monkeypatch.setattr(gguf_file, "read_logits", read_logits)
    Path("output").mkdir()
    Path("output/tiny.gguf").write_text("an earlier one")
    with pytest.raises(SystemExit) as exit:
        main(["export", "tiny", "gguf", "--data", "story.txt", "--ollama"])
    assert exit.value.code == 1 and list_names(Path("output")) == ["tiny.gguf"]
    assert Path("output/tiny.gguf").read_text() == "an earlier one"
    problem = "does not run it (Failed to" if fault == "does not open" else "in llama.cpp it is another model: largest"
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("gpt-tf2 export: nothing is written: ") and problem in line


@pytest.mark.parametrize("fault", ["import", "memory"])
def test_a_program_that_fails_by_itself_costs_nothing_but_the_comparison(
    fault: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_logits(output: Path) -> gguf_file.LogitsOf:
        raise RuntimeError("Failed to allocate memory for requested buffer")

    Path("broken_program.py").write_text("raise RuntimeError('libllama.so: no such file')")
    monkeypatch.syspath_prepend(workplace)
    name = "broken_program" if fault == "import" else "numpy"
    monkeypatch.setitem(FORMATS, "gguf", dataclasses.replace(MISSING, imported=(name,)))
    monkeypatch.setattr(gguf_file, "read_logits", read_logits)
    assert main(["export", "tiny", "gguf", "--data", "story.txt"]) == 0
    assert list_names(Path("output")) == ["tiny.gguf"]
    reasons = {
        "import": "broken_program cannot be imported (libllama.so: no such file): pip install it again",
        "memory": "Failed to allocate memory for requested buffer",
    }
    assert capsys.readouterr().err == f"not compared in llama.cpp: {reasons[fault]}\n"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("models/tiny/model.ckpt.index", "end the name in .gguf"),
        ("link.gguf", "is the model itself"),
        ("pipe.gguf", "is there and no file"),
        ("models", "end the name in .gguf"),
        ("folder.gguf", "is there and no file"),
    ],
)
def test_what_must_not_be_replaced_is_refused(
    name: str, problem: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FORMATS, "gguf", MISSING)
    model = Path("models/tiny/model.ckpt.index")
    before = model.read_bytes()
    Path("link.gguf").symlink_to(model)
    Path("folder.gguf").mkdir()
    os.mkfifo("pipe.gguf")
    names = list_names(workplace)
    assert main(["export", "tiny", "gguf", "--output", name, "--ollama"]) == 2
    assert f"--output {name}: {problem}" in capsys.readouterr().err
    assert list_names(workplace) == names and model.read_bytes() == before and Path("pipe.gguf").is_fifo()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("tiny gguf --data empty.txt", "--data empty.txt: less than two tokens: give a longer text"),
        ("tiny gguf --data none.txt", "none.txt: cannot be read"),
        ("none gguf", "no such model"),
        ("tiny gguf --precision int8", "--precision int8: not in gguf: use float32, float16 or q8_0"),
        ("tiny hf --output .", ".: is there already: remove it, or choose another --output"),
        ("tiny hf --ollama", "--ollama: reads gguf alone, not hf: leave it out, or export to gguf"),
    ],
)
def test_bad_input_is_one_line(flags: str, problem: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.txt").touch()
    assert main(["export", *flags.split()]) == 2
    assert problem in capsys.readouterr().err and not Path("output").exists()
