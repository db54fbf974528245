"""Converting a checkpoint for a CPU: once, and again when it must; and what `generate` and `chat` do with it."""

import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import load_model, save_model
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.cli import main
from gpt_tf2.commands import demo
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.from_scratch import choose_shape
from gpt_tf2.commands.generate import GenerateSettings, generate
from gpt_tf2.commands.vocabulary import make_vocabulary, write_vocabulary
from gpt_tf2.data.reference_text import read_reference_text
from gpt_tf2.decoding.engine import open_decoder
from gpt_tf2.decoding.kernels.vectors import HAS_TILES
from gpt_tf2.model import GPT2, random_tensors
from helpers import made_up
from helpers.processes import start_script
from helpers.workplace import list_names

GREEDY = ["generate", "--model=models/tiny", "--temperature=0", "--length=20", "--prompt=The tide"]
LINE = "-" * 50


def run_greedy(capsys: pytest.CaptureFixture, *flags: str) -> tuple[str, str]:
    """Runs the command GREEDY → its stdout and stderr."""
    capsys.readouterr()
    assert main([*GREEDY, *flags]) == 0
    return capsys.readouterr()


def test_the_second_run_converts_nothing_and_does_not_import_tensorflow(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    first = run_greedy(capsys)
    assert "converted in" in first.err
    program = f"""import sys; import gpt_tf2; from gpt_tf2.cli import main
main({GREEDY!r})
gpt_tf2.load("models/tiny").perplexity("The tide")
print({{"keras", "tensorflow"}} & {{*sys.modules}})"""
    second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=workplace)
    assert second.stdout == first.out + "set()\n"
    assert "converted" not in second.stderr
    assert run_greedy(capsys, "--engine=graph").out == first.out


@pytest.mark.skipif(not HAS_TILES, reason="this processor lacks the instructions")
@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") == "jax", reason="JAX decodes in the Keras graph")
def test_int8_drafts_for_float32_but_where_drafts_are_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    made_up.write_model(tmp_path / "models" / "tiny", n_ctx=128)  # with heads of 16 channels
    kept = tmp_path / "models" / "tiny" / ".gpt_tf2"
    plain = run_greedy(capsys, "--draft=off")
    assert list_names(kept) == ["native-model.ckpt-float32"]
    drafted = run_greedy(capsys)
    assert drafted.out == plain.out and "perplexity" not in drafted.err
    assert list_names(kept) == ["native-model.ckpt-draft", "native-model.ckpt-float32"]
    assert "int8 changes the perplexity" in run_greedy(capsys, "--quantize=int8").err
    model = open_model("models/tiny")
    for engine, precision, drafts, expected in (
        ("cpu", "auto", True, "int8"),
        ("native", "float32", False, None),
        ("native", "int8", True, None),
    ):
        decoder = open_decoder(model, engine, precision, print, pytest.fail, drafts)
        assert getattr(decoder.drafter, "precision", None) == expected


@pytest.mark.slow
def test_a_damaged_or_outdated_conversion_is_replaced(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    first = run_greedy(capsys)
    conversion = next((workplace / "models" / "tiny" / ".gpt_tf2").iterdir())
    graph = conversion / "wte.npy"
    whole = graph.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:9000] + bytes([whole[9000] ^ 255]) + whole[9001:], b""):
        graph.write_bytes(damaged)
        again = run_greedy(capsys)
        assert again.out == first.out and "converted in" in again.err
        assert graph.stat().st_size == len(whole)
    (conversion / "about.json").write_text("{")
    assert "converted in" in run_greedy(capsys).err
    os.utime(workplace / "models" / "tiny" / "model.ckpt.index")
    assert "converted" not in run_greedy(capsys).err
    model = load_model(workplace / "models" / "tiny")
    model.tensors()["wte"].assign(-np.asarray(model.tensors()["wte"]))
    save_model(model, workplace / "models" / "tiny" / "model.ckpt")
    changed = run_greedy(capsys)
    assert changed.out != first.out and "converted in" in changed.err


def write_demo(folder: Path) -> str:
    """Writes the demo's random model; returns the demo's text."""
    text = read_reference_text()
    folder.mkdir(parents=True)
    tokenizer = write_vocabulary(make_vocabulary([text], demo.TOKENS), folder)
    config = choose_shape(demo.TRAINING, demo.TOKENS)
    save_model(GPT2(config, read=random_tensors(config, seed=0, std=0.05)), folder / "model.ckpt", tokenizer)
    return text


def write_small(folder: Path) -> str:
    """Writes a smaller random model; returns a text that it learns in fewer steps."""
    made_up.write_model(folder, n_ctx=128)
    draw = random.Random(0)
    return "\n\n".join("\n".join(made_up.make_story(draw)) for _ in range(1000))


@pytest.mark.slow
@pytest.mark.parametrize(("write_model", "steps", "perplexity"), [(write_small, 40, 4), (write_demo, 150, 60)])
def test_int8_costs_less_than_a_percent_of_perplexity_and_says_so(
    write_model: Callable[[Path], str],
    steps: int,
    perplexity: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """A network that was trained for seconds, measured on the held-out part of its text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(write_model(tmp_path / "models" / "base"))
    settings = {"model": "base", "output_name": "m.h5", "epochs": 1, "steps": steps, "batch_size": 8}
    path = run_finetune(
        FinetuneSettings(data="text.txt", **settings, length=128, lr=0.003, val_fraction=0.1, sample_every=0)
    )
    assert len(np.load(path.with_suffix("") / "validation.npy")) == 1024
    capsys.readouterr()
    assert main(["generate", f"--model={path}", "--quantize=int8", "--length=20", "--seed=1"]) == 0
    about = json.loads(next((path.with_suffix("") / ".gpt_tf2").glob("*-int8/about.json")).read_text())
    exact, quantized = about["facts"]["perplexity"]
    assert exact < perplexity and quantized / exact < 1.01
    assert f"{quantized / exact - 1:+.2%}" in capsys.readouterr().err


def test_many_samples_of_many_prompts(converted: Path, capsys: pytest.CaptureFixture) -> None:
    (converted / "prompts.txt").write_text("The tide\n\nOne\\nTwo\n")
    flags = ["generate", "--model=models/tiny", "--prompts=prompts.txt", "--length=6", "--seed=3", "--n_samples=3"]
    assert main([*flags, "--batch_size=2", "--json"]) == 0
    samples = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sample["prompt"] for sample in samples] == ["The tide"] * 3 + ["One\\nTwo"] * 3
    assert all(0 < sample["tokens"] <= 6 and sample["ended"] in ("length", "end") for sample in samples)
    assert main([*flags, "--batch_size=5", "--output_file=out/samples.txt", "--include_prompt=no"]) == 0
    assert capsys.readouterr().out == ""
    texts = (converted / "out" / "samples.txt").read_text().split(f"\n{LINE}\n")
    assert texts == [*(sample["text"] for sample in samples), ""]


def test_a_sample_ends_before_the_stop_text_but_not_below_the_minimum_length(converted: Path) -> None:
    settings = {"max_new_tokens": 30, "seed": 1, "top_k": 0}
    text = generate(GenerateSettings(model="models/tiny", **settings, prompt="The", min_length=30))[0]
    stop = text[9:11]
    stopped = generate(GenerateSettings(model="models/tiny", **settings, prompt="The", min_length=30, stop=stop))[0]
    assert stopped == text[: text.index(stop, 3)]


@pytest.mark.slow
def test_prompts_come_from_standard_input(converted: Path) -> None:
    flags = ["inference.py", "--model_path=models/tiny", "--prompts=-", "--output_length=4", "--temperature=0"]
    process = start_script(*flags, folder=converted, stdin=subprocess.PIPE)
    out, _ = process.communicate("The tide\nThe moon\n", timeout=300)
    assert process.returncode == 0 and out.count(LINE) == 2
    assert [sample[:8] for sample in out.split(f"\n{LINE}\n")] == ["The tide", "The moon", ""]
    process = start_script(*flags, folder=converted, stdin=subprocess.PIPE, text=False)
    _, err = process.communicate(b"caf\xe9\n", timeout=300)
    assert process.returncode == 2 and b"not UTF-8 text at byte 3" in err and err.count(b"\n") == 1


@pytest.mark.slow
def test_ctrl_c_and_a_closed_pipe_end_a_stream_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made_up.write_model(tmp_path / "long", n_ctx=6000)
    generate(GenerateSettings(model="long", max_new_tokens=1))  # converts the model
    flags = ["inference.py", "--model_path=long", "--starter=Then the", "--temperature=0"]
    flags += ["--min_length=5900", "--output_length=5900"]
    # A shell starts background jobs with SIGINT ignored.
    heeds_sigint = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start_script(*flags, folder=tmp_path, bufsize=0, text=False, **heeds_sigint)
    assert process.stdout.read(12)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == b"inference.py: interrupted\n"
    process = start_script(*flags, folder=tmp_path, bufsize=0, text=False)
    assert process.stdout.read(12)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=60) == 0


def test_a_conversation_continues_from_the_models_own_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    made_up.write_model(tmp_path / "small", n_ctx=128)
    passage = "Once there was a red cat. It lived in the mill."
    (tmp_path / "passage.txt").write_text(passage)
    questions = ["What colour was it?", "Where did it live?", "What did it eat?"]

    def answer(prompt: str) -> str:
        settings = {"include_prompt": False, "max_new_tokens": 9, "temperature": 0.0, "stop": "\n"}
        return generate(GenerateSettings(model="small", prompt=prompt, **settings))[0]

    prompt, answers = passage, []
    for question in questions:
        prompt += f"\n Q: {question}\n A:"
        answers.append(answer(prompt))
        prompt += answers[-1]
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}\n{}\n\n{}\n".format(*questions)))
    assert main(["chat", "small", "--passage=passage.txt", "--output_length=9"]) == 0
    assert capsys.readouterr().out == "".join(f"{text.strip()}\n" for text in answers)
    # Without the first answer in the prompt, the second one is different.
    forgetful = answer(f"{passage}\n Q: {questions[0]}\n A:\n Q: {questions[1]}\n A:")
    assert answers[0].strip() and forgetful != answers[1]
