"""LiteRT's conversion of a checkpoint: made once, kept, made anew when it must be; and what `generate` does with it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import FinetuneSettings, GenerateSettings, finetune, generate, load_model, save_model
from gpt_tf2.cli import main
from gpt_tf2.commands import demo
from gpt_tf2.model import GPT2, random_tensors
from helpers import made_up as madeup
from helpers.processes import ROOT, command, run

GREEDY = ["generate", "--model=models/tiny", "--temperature=0", "--length=20", "--prompt=The tide"]


def written(capsys: pytest.CaptureFixture, *flags: str) -> tuple[str, str]:
    capsys.readouterr()
    assert main([*GREEDY, *flags]) == 0
    return capsys.readouterr()


def test_the_second_run_converts_nothing_and_imports_no_tensorflow(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    first = written(capsys)
    assert "converted in" in first.err
    program = f"""import sys; from gpt_tf2.cli import main
main({GREEDY!r})
print({{"keras", "tensorflow"}} & {{*sys.modules}})"""
    second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=workplace)
    assert second.stdout == first.out + "set()\n"
    assert "converted" not in second.stderr
    assert written(capsys, "--engine=graph").out == first.out


def test_a_damaged_or_outdated_conversion_is_made_anew(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    first = written(capsys)
    kept = next((workplace / "models" / "tiny" / ".gpt_tf2").glob("litert-*"))
    graph = kept / "stages-000.tflite"
    whole = graph.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:9000] + bytes([whole[9000] ^ 255]) + whole[9001:], b""):
        graph.write_bytes(damage)
        again = written(capsys)
        assert again.out == first.out and "converted in" in again.err
        assert graph.stat().st_size == len(whole)
    (kept / "about.json").write_text("{")
    assert "converted in" in written(capsys).err
    os.utime(workplace / "models" / "tiny" / "model.ckpt.index")
    assert "converted" not in written(capsys).err
    model = load_model(workplace / "models" / "tiny")
    model.tensors()["wte"].assign(-np.asarray(model.tensors()["wte"]))
    save_model(model, workplace / "models" / "tiny" / "model.ckpt")
    changed = written(capsys)
    assert changed.out != first.out and "converted in" in changed.err


def test_int8_costs_little_and_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's network, trained for seconds on the demo's text; measured on the part that it was not shown."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "demo"
    (folder).mkdir(parents=True)
    text = demo.reference_text()
    (tmp_path / "text.txt").write_text(text)
    tokenizer = demo.build_vocabulary(text, demo.CONFIG.n_vocab, folder)
    save_model(GPT2(demo.CONFIG, read=random_tensors(demo.CONFIG, seed=0, std=0.05)), folder / "model.ckpt", tokenizer)
    settings = {"model": "demo", "output_name": "demo.h5", "num_epoch": 1, "steps_per_epoch": 150, "batch_size": 8}
    path = finetune(
        FinetuneSettings("text.txt", **settings, length=128, base_lr=0.003, val_fraction=0.1, sample_every=0)
    )
    assert len(np.load(path.with_suffix("") / "validation.npy")) == 1024
    starter = 'The "for" statement'
    generate(GenerateSettings(str(path), starter=starter, quantize="int8", output_length=20, seed=1))
    about = json.loads(next((path.with_suffix("") / ".gpt_tf2").glob("*-int8/about.json")).read_text())
    exact, quantized = about["facts"]["perplexity"]
    print(f"perplexity {exact:.3f} in float32, {quantized:.3f} in int8")
    assert exact < 60 and quantized / exact < 1.01


def test_many_samples_of_many_prompts(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    (workplace / "prompts.txt").write_text("The tide\n\nOne\\nTwo\n")
    flags = ["generate", "--model=models/tiny", "--prompts=prompts.txt", "--length=6", "--seed=3", "--n_samples=3"]
    assert main([*flags, "--batch_size=2", "--json"]) == 0
    samples = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sample["prompt"] for sample in samples] == ["The tide"] * 3 + ["One\nTwo"] * 3
    assert all(0 < sample["tokens"] <= 6 and sample["ended"] in ("length", "end") for sample in samples)
    assert main([*flags, "--batch_size=5", "--output_file=out/samples.txt", "--include_prompt=no"]) == 0
    assert capsys.readouterr().out == ""
    texts = (workplace / "out" / "samples.txt").read_text().split("\n" + "-" * 50 + "\n")
    assert texts == [*(sample["text"] for sample in samples), ""]


def test_a_stop_text_ends_a_sample_and_a_minimum_length_holds(workplace: Path) -> None:
    settings = {"output_length": 30, "seed": 1, "top_k": 0}
    text = generate(GenerateSettings("models/tiny", **settings, starter="The", min_length=30))[0]
    stop = text[9:11]
    stopped = generate(GenerateSettings("models/tiny", **settings, starter="The", min_length=30, stop=stop))[0]
    assert stopped == text[: text.index(stop, 3)]


def test_prompts_come_from_standard_input(workplace: Path) -> None:
    flags = ["inference.py", "--model_path=models/tiny", "--prompts=-", "--output_length=4", "--temperature=0"]
    process = command(*flags, folder=workplace, stdin=subprocess.PIPE)
    out, _ = process.communicate("The tide\nThe moon\n", timeout=300)
    assert process.returncode == 0 and out.count("-" * 50) == 2 and out.startswith("The tide")
    process = command(*flags, folder=workplace, stdin=subprocess.PIPE, text=False)
    _, err = process.communicate(b"caf\xe9\n", timeout=300)
    assert process.returncode == 2 and b"not UTF-8 text at byte 3" in err and err.count(b"\n") == 1


def test_a_closed_pipe_and_ctrl_c_in_mid_stream(tmp_path: Path) -> None:
    madeup.write_model(tmp_path / "long", n_ctx=6000)
    flags = ["inference.py", "--model_path=long", "--starter=Then the", "--temperature=0", "--min_length=5900"]
    long = [*flags, "--output_length=5900"]
    run("inference.py", "--model_path=long", "--output_length=1", folder=tmp_path)
    # A shell's background job would have it ignored.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = command(*long, folder=tmp_path, bufsize=0, text=False, **listening)
    assert process.stdout.read(12)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == b"inference.py: interrupted\n"
    process = command(*long, folder=tmp_path, bufsize=0, text=False)
    assert process.stdout.read(12)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=60) == 0


def test_a_conversation_goes_on_with_its_own_answers(tmp_path: Path) -> None:
    madeup.write_model(tmp_path / "small", n_ctx=128)
    (tmp_path / "passage.txt").write_text("Once there was a red cat. It lived in the mill.")
    flags = [str(ROOT / "gpt_tf2"), "chat", "small", "--passage=passage.txt", "--output_length=9"]
    program = f"import sys; from gpt_tf2.cli import main; sys.exit(main({flags[1:]!r}))"
    asked = "What colour was it?\nWhere did it live?\n\nWhat did it eat?\n"
    result = subprocess.run(
        [sys.executable, "-c", program], input=asked, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert len(result.stdout.splitlines()) == 3
