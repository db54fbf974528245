"""`vocabulary`, and `finetune --from_scratch` on what it writes. Runs on either backend."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers

from gpt_tf2 import InputError, Tokenizer
from gpt_tf2.cli import main
from gpt_tf2.commands import demo
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.from_scratch import choose_shape, open_random_model
from gpt_tf2.commands.recipes import read_recipe
from gpt_tf2.commands.vocabulary import VocabularySettings, learn_vocabulary, make_vocabulary, write_vocabulary
from gpt_tf2.config import SIZES
from gpt_tf2.training.schedule import choose_rate
from helpers.finetuning import are_identical, read_hdf5, read_weights
from helpers.workplace import STORY

pytestmark = pytest.mark.usefixtures("without_graphs")

SHAPE: dict[str, Any] = {"n_layer": 2, "n_embd": 32, "n_head": 4}
SHORT: dict[str, Any] = {
    "data": "story.txt", "model": "story", "from_scratch": True, "length": 24, "epochs": 2, "steps": 3,
    "batch_size": 2, "sample_every": 0, **SHAPE,
}  # fmt: skip


@pytest.fixture
def vocabulary(workplace: Path, capsys: pytest.CaptureFixture) -> Path:
    """The folder of a vocabulary that was learned from `story.txt` by the command."""
    assert main(["vocabulary", "story.txt", "--size=400"]) == 0
    assert capsys.readouterr().out == "saved a vocabulary of 400 tokens in models/story\n"
    return workplace / "models" / "story"


def test_a_vocabulary_encodes_as_the_library_that_learned_it_does(vocabulary: Path) -> None:
    tokenizer = Tokenizer(vocabulary / "encoder.json", vocabulary / "vocab.bpe")
    lines = (vocabulary / "vocab.bpe").read_text().splitlines()[1:]
    merges = [tuple(line.split()) for line in lines]
    reference = HuggingFaceTokenizer(models.BPE(json.loads((vocabulary / "encoder.json").read_text()), merges))
    reference.pre_tokenizer, reference.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    for text in (STORY, "It's 7 o'clock,\n\n  said nobody.", "北海道 \x00 naïve\t🙂", " "):
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text).ids and tokenizer.decode(ids) == text


def test_two_merges_that_make_one_token_share_an_id(tmp_path: Path) -> None:
    texts = ["ab abc bc abc abcd bcd " * 3 + " abcabc bcabc cab abca" * 4] * 4
    contents = make_vocabulary(texts, 600)
    tokenizer = write_vocabulary(contents, tmp_path)  # raises if an id is missing
    assert sorted(json.loads(contents["encoder.json"]).values()) == list(range(tokenizer.n_vocab))


def test_specials_and_rows_of_tables_are_read_as_finetune_reads_them(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    (workplace / "poems.csv").write_text("poem\n" + "\n".join(f"lanterns <|endoftext|> {n}" for n in range(50)))
    tokenizer = learn_vocabulary(VocabularySettings("poems.csv", 300, "verse/small"))
    assert "endoftext" not in (workplace / "verse" / "small" / "vocab.bpe").read_text()
    assert tokenizer.encode("<|startoftext|>lanterns") == tokenizer.encode("<|startoftext|>") + tokenizer.encode(
        "lanterns"
    )
    err = capsys.readouterr().err
    assert "50 <|endoftext|> in it" in err and "header poem" in err


def test_a_short_text_gives_fewer_tokens_and_says_so(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    (workplace / "short.txt").write_text("a tide a tide")
    assert learn_vocabulary(VocabularySettings("short.txt", 1000)).n_vocab < 270
    assert "fewer tokens than 1,000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["none.txt", "--output=none"], ["none.txt", "no such file"]),
        (["story.txt", "--size=256"], ["--size 256", "at least 257"]),
        (["story.txt", "--output=tiny"], ["--output models/tiny", "choose another folder"]),
        (["*.txt"], ["*.txt", "give the --output"]),
        (["empty.txt"], ["there is no text in it"]),
        (["ids.npz"], ["token ids, no text"]),
    ],
)
def test_what_no_vocabulary_can_be_made_of(
    flags: list[str], words: list[str], workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("empty.txt").touch()
    np.savez("ids.npz", np.arange(9))
    before = sorted(workplace.rglob("*"))
    assert main(["vocabulary", *flags]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words), err
    assert [path for path in sorted(workplace.rglob("*")) if path.is_file()] == [p for p in before if p.is_file()]


def test_a_random_network_begins_as_gpt_2_did(vocabulary: Path) -> None:
    """Radford et al. 2019, section 2.3: 0.02, and 1/√N of it for the N projections into the residual stream."""
    settings = FinetuneSettings(**SHORT | {"n_layer": 8, "n_embd": 64})
    model = open_random_model(settings)
    assert model.config.n_ctx == 24 and model.config.n_vocab == 400  # the context is --length
    tensors = {name: model.checkpoint.read(name) for name in model.checkpoint.shapes}
    for name, std in [("wte", 0.02), ("wpe", 0.01), ("h3/attn/c_attn/w", 0.02), ("h3/mlp/c_proj/w", 0.02 / 4)]:
        assert tensors[name].std() == pytest.approx(std, rel=0.05), name
    assert (tensors["h0/ln_1/g"] == 1).all() and not tensors["h0/mlp/c_fc/b"].any()
    other = open_random_model(FinetuneSettings(**SHORT | {"n_layer": 8, "n_embd": 64, "init_std": 0.05, "seed": 1}))
    assert other.checkpoint.read("wte").std() == pytest.approx(0.05, rel=0.05)


def test_a_run_from_scratch_learns_and_run_toml_repeats_it_bit_for_bit(
    vocabulary: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [f"--{name}={value}" for name, value in SHORT.items() if name != "from_scratch"]
    assert main(["finetune", "--from_scratch", *flags, "--init_std=0.08", "--output=m.h5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("random weights, vocabulary of models/story: 39,040 parameters") and "--lr 0.001)" in out
    losses = read_hdf5(Path("output/m/state.h5"))["losses"]
    assert losses[0] == pytest.approx(np.log(400), abs=0.5) and losses[-1] < losses[0]
    assert main(["finetune", "--config=output/m/run.toml", "--output=again.h5"]) == 0
    assert are_identical(read_weights(Path("output/m.h5")), read_weights(Path("output/again.h5")))
    written = read_recipe("output/m/run.toml", FinetuneSettings)
    assert written["from_scratch"] and written["n_layer"] == 2 and written["init_std"] == 0.08
    assert (Path("output/m") / "vocab.bpe").read_bytes() == (vocabulary / "vocab.bpe").read_bytes()


@pytest.mark.slow
def test_a_run_from_scratch_resumes_only_as_it_began(vocabulary: Path) -> None:
    whole = run_finetune(FinetuneSettings(**SHORT, output="whole.h5"))
    run_finetune(FinetuneSettings(**SHORT | {"epochs": 1}, output="m.h5"))
    for changed, problem in [
        ({"n_layer": 1}, "the model has changed since the run began"),
        ({"init_std": 0.05}, "differs from the weights that the run began with"),
        ({"seed": 1}, "seed=1: was 0"),
    ]:
        with pytest.raises(InputError, match=problem):
            run_finetune(FinetuneSettings(**SHORT | changed, output="m.h5", resume=True))
    resumed = run_finetune(FinetuneSettings(**SHORT, output="m.h5", resume=True))
    assert are_identical(read_weights(whole), read_weights(resumed))


def test_the_vocabulary_of_a_model_will_do(workplace: Path) -> None:
    shutil.copytree("models/tiny", "models/124M")
    settings = FinetuneSettings(**SHORT | {"model": "124M", "n_layer": None})
    config = open_random_model(settings).config
    assert (config.n_vocab, config.n_layer, config.n_embd) == (512, 12, 32)  # what is not given is 124M's
    assert choose_shape(FinetuneSettings(data="x", from_scratch=True), 50257) == SIZES["124M"]
    shutil.copytree("models/124M", "elsewhere")
    files = {"json_encoder": "elsewhere/encoder.json", "vocab_bpe": "elsewhere/vocab.bpe"}
    assert open_random_model(FinetuneSettings(**SHORT | {"model": "new"} | files)).config.n_vocab == 512


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"n_head": None}, "from_scratch=True: needs the n_head of the network"),
        ({"n_head": 5}, "n_head=5: does not divide n_embd 32"),
        ({"n_ctx": 16}, "length=24: is above n_ctx 16"),
        ({"model": "none"}, r"model=none: no encoder.json and vocab.bpe in models/none: make one"),
        ({"from_scratch": False}, "n_layer=2: is of a random network"),
        ({"lora_rank": 2}, "lora_rank=2: belongs to a model with weights"),
        ({"model_ckpt": "models/tiny"}, "model_ckpt=models/tiny: belongs to a model with weights"),
    ],
)
def test_a_network_that_cannot_be_made(settings: dict[str, Any], problem: str, vocabulary: Path) -> None:
    with pytest.raises(InputError, match=problem):
        run_finetune(FinetuneSettings(**SHORT | settings))
    assert not Path("output").exists()


def test_the_rate_from_scratch_follows_the_size() -> None:
    rates = [choose_rate(n, "adamw", False, from_scratch=True) for n in (1e6, 124e6, 355e6, 774e6, 1558e6)]
    assert rates == [1e-3, 6e-4, 3e-4, 2.5e-4, 2e-4]


def test_the_demo_is_these_commands(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = dataclasses.replace(demo.TRAINING, epochs=1, steps=1, batch_size=1, decay_epochs=(5,))
    monkeypatch.setattr(demo, "TRAINING", short)
    monkeypatch.setattr(demo, "read_reference_text", lambda: STORY)
    monkeypatch.setattr(demo, "write_sample", str)
    assert demo.run_demo(demo.DemoSettings()) == Path("output/demo.h5")
    assert sorted(path.name for path in Path("models/demo").iterdir()) == ["encoder.json", "reference.txt", "vocab.bpe"]
