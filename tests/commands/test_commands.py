"""The commands as a person types them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_tf2 import Tokenizer
from gpt_tf2.cli import main
from gpt_tf2.commands import demo
from gpt_tf2.commands.generate import GenerateSettings, unescape
from gpt_tf2.commands.vocabulary import make_vocabulary, write_vocabulary
from gpt_tf2.data.reference_text import read_reference_text
from gpt_tf2.generation.sampling import MinP, Nucleus, RepetitionPenalty, Sampler, Temperature, TopK
from helpers.commands import GENERATE
from helpers.processes import run_script
from helpers.workplace import ROOT, STORY

DASHES = "-" * 50


@pytest.mark.slow
def test_the_scripts_of_2019_run_with_their_flags(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    files = [
        "--json_hparams=models/tiny/hparams.json",
        "--json_encoder=models/tiny/encoder.json",
        "--vocab_bpe=models/tiny/vocab.bpe",
    ]
    trained = run_script(
        "finetune.py",
        *["--model=tiny", "--model_ckpt=models/tiny/model.ckpt", *files, "--output_name=book.h5"],
        *["--dataset_path=story.txt", "--data_loader=text", "--base_lr=0.0001", "--num_epoch=1"],
        *["--steps_per_epoch=3", "--length=64"],
        folder=workplace,
    )
    assert (trained.returncode, trained.stderr) == (0, "")
    flags = [*files, "--nucleus", "--top_p=1.0", "--temperature=1.0", "--output_length=20", "--batch_size=5"]
    # Without a seed, two of the five now and then both end at once.
    flags += ["--starter=She picked up the sword", "--seed=1"]
    outputs = []
    for model in ("output/book.h5", "models/tiny/model.ckpt"):
        assert main(["generate", f"--model_path={model}", *flags]) == 0
        outputs.append(capsys.readouterr())
    script = run_script("inference.py", "--model_path=output/book.h5", *flags, folder=workplace)
    assert script.returncode == 0
    engine = "JAX on cpu" if os.environ.get("KERAS_BACKEND") == "jax" else "LiteRT on CPU"
    for out, err in (*outputs, (script.stdout, script.stderr)):
        assert f"tokens/s, {engine}, float32" in err
        samples = out.split(DASHES + "\n")
        assert len(samples) == 6 and samples[-1] == ""
        assert all(sample.startswith("She picked up the sword") for sample in samples[:-1])
        assert len(set(samples)) == 6


@pytest.mark.slow
def test_a_model_a_text_and_a_prompt_are_enough(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    short = ["--num_epoch", "1", "--steps_per_epoch", "2", "--length", "16"]
    assert main(["finetune", "--model", "tiny", "--data", "story.txt", *short]) == 0
    capsys.readouterr()
    assert main(["generate", "--model", "output/story_tiny.h5", "--prompt", "The", "--length", "5", "--seed", "1"]) == 0
    once = capsys.readouterr().out
    assert once.startswith("The") and once.endswith(DASHES + "\n")
    assert main(["generate", "--model", "output/story_tiny.h5", "--prompt", "The", "--length", "5", "--seed", "1"]) == 0
    assert capsys.readouterr().out == once


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"One\nTwo", "One\nTwo"),
        (r"\'a\' \"b\" \“c\” \‘d\’", "'a' \"b\" “c” ‘d’"),
        (r"a\b \t", r"a\b \t"),
    ],
)
def test_a_typed_starter_is_unescaped(typed: str, meant: str) -> None:
    assert unescape(typed) == meant


@pytest.mark.parametrize(
    ("flags", "rules"),
    [
        ({}, (TopK(2),)),
        ({"top_k": 40, "temperature": 0.7}, (Temperature(0.7), TopK(40))),
        ({"nucleus": True, "top_p": 0.9}, (Nucleus(0.9),)),
        ({"top_p": 0.9}, (Nucleus(0.9),)),
        ({"nucleus": True, "top_p": 0.9, "top_k": 5}, (TopK(5), Nucleus(0.9))),
        ({"nucleus": True}, ()),
        ({"top_k": 0}, ()),
        ({"min_p": 0.1, "top_k": 0}, (MinP(0.1),)),
        ({"repetition_penalty": 1.2, "top_k": 0}, (RepetitionPenalty(1.2),)),
    ],
)
def test_flags_choose_the_sampling_rules(flags: dict, rules: tuple) -> None:
    assert GenerateSettings(model="m.h5", **flags).sampler() == Sampler(rules)
    assert GenerateSettings(model="m.h5", temperature=0.0, nucleus=True).sampler() == Sampler(greedy=True)


def test_without_a_starter_a_new_text_is_generated(converted: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["generate", "--model=models/tiny", "--length=8", "--seed=0"]) == 0
    out = capsys.readouterr().out
    assert "<|endoftext|>" not in out and len(out) > len(DASHES) + 1


def test_a_learned_vocabulary_is_read_like_openais(tmp_path: Path) -> None:
    tokenizer = write_vocabulary(make_vocabulary([STORY], 400), tmp_path)
    again = Tokenizer(tmp_path / "encoder.json", tmp_path / "vocab.bpe")
    assert tokenizer.n_vocab == again.n_vocab == 400 and again.end_of_text == 399
    ids = again.encode(STORY)
    assert again.decode(ids) == STORY and len(ids) < len(STORY) / 3
    assert tokenizer.encode("北\x00é") == again.encode("北\x00é") and again.decode(again.encode("北\x00é")) == "北\x00é"


def test_the_demos_text_is_the_language_reference() -> None:
    text = read_reference_text()
    assert len(text) > 300_000 and demo.STARTER in text


def test_importing_the_package_does_not_import_tensorflow() -> None:
    program = "import gpt_tf2, gpt_tf2.cli, sys; gpt_tf2.Tokenizer; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_temperature_0_is_greedy_as_the_help_says(converted: Path, capsys: pytest.CaptureFixture) -> None:
    texts = set()
    for flag in ("--temperature=0", "--temperature=0", "--top_k=1"):
        assert main([*GENERATE.split(" "), "--output_length=20", flag]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "0 takes the most likely token" in " ".join(capsys.readouterr().out.split())
