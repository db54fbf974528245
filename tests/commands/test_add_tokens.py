"""`finetune --add_tokens`: texts that become one token each, trained, saved and drawn. Runs on either backend."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt_tf2
from gpt_tf2 import InputError
from gpt_tf2.checkpoints.added_tokens import add_tokens
from gpt_tf2.checkpoints.opened import open_model, save_model
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.from_scratch import open_random_model
from gpt_tf2.commands.run import place_last
from gpt_tf2.model import GPT2
from helpers.finetuning import are_identical, change_settings, read_hdf5, read_weights

ADDED = ("<user>", "<bot>")
USER, BOT = 512, 513  # their ids: the tiny model has 512 tokens
TALK = "<user>The tide?<bot>Home." * 300


@pytest.fixture
def talks(workplace: Path) -> Path:
    """A text with the new tokens."""
    path = workplace / "talks.txt"
    path.write_text(TALK)
    return path


def change(**values: Any) -> FinetuneSettings:
    """The settings of a short run with the new tokens, some changed."""
    short = {"data": "talks.txt", "add_tokens": ADDED, "dropout": 0.0, "val_fraction": 0.0, "epochs": 1, "steps": 2}
    return change_settings(**short | values)


def test_new_tokens_are_learned_saved_and_drawn_as_one_token_each(talks: Path, capsys: pytest.CaptureFixture) -> None:
    path = run_finetune(change(steps=60, lr=3e-3))
    assert "added tokens: <user> (512), <bot> (513)\n" in capsys.readouterr().out
    lm = gpt_tf2.load(path)
    ids = lm.tokenizer.encode("The tide<bot>Home.<user>")
    assert (ids[-1], ids.count(BOT), lm.config.n_vocab, lm.tokenizer.n_vocab) == (USER, 1, 514, 514)
    assert lm.tokenizer.decode(ids) == "The tide<bot>Home.<user>"
    assert [token for token, id, _ in lm.logprobs("a<bot>") if id == BOT] == ["<bot>"]
    assert lm.generate("<user>The", max_new_tokens=30, temperature=0).startswith(" tide?<bot>Home.<user>The tide?<bot>")
    assert "".join(lm.stream("<user>The tide?", max_new_tokens=4, temperature=0)).startswith("<bot>Home")


def test_rows_begin_at_the_mean_embedding_and_are_trained(talks: Path) -> None:
    before = read_weights(Path("models/tiny"))["wte"]
    begun = add_tokens(open_model("models/tiny"), ADDED).load()
    rows = np.asarray(begun.tensors()["wte"])
    assert np.array_equal(rows[:512], before) and np.allclose(rows[512:], before.mean(axis=0), atol=1e-7)
    after = read_weights(run_finetune(change(lr=1e-2)))["wte"]
    assert (np.abs(after[512:] - rows[512:]).max(axis=1) > 1e-3).all() and (after[512] != after[513]).any()


def test_rows_that_a_padded_model_has_already_are_used(workplace: Path) -> None:
    small = open_model("models/tiny")
    tensors = read_weights(Path("models/tiny"))
    tensors["wte"] = np.concatenate([tensors["wte"], np.full((16, 48), 9, "float32")])
    config = dataclasses.replace(small.config, n_vocab=528)
    save_model(GPT2(config, read=tensors.__getitem__), "padded.h5", small.tokenizer)
    padded = add_tokens(open_model("padded.h5"), ADDED)
    rows = padded.checkpoint.read("wte")
    assert np.array_equal(rows[:512], tensors["wte"][:512]) and (rows[514:] == 9).all()
    assert np.allclose(rows[[USER, BOT]], tensors["wte"][:512].mean(axis=0), atol=1e-7)
    assert padded.tokenizer.undrawn(528).tolist() == list(range(514, 528))
    assert padded.remark.endswith("no token for 14 of the model's 528 ids: these are never drawn")


HOW: dict[str, Any] = {"freeze": ("h0",), "precision": "bfloat16", "val_fraction": 0.1, "dropout": 0.1}


@pytest.mark.slow
def test_a_run_resumes_only_with_the_same_tokens(talks: Path) -> None:
    run_finetune(change(steps=1))
    for others in (ADDED[::-1], ADDED[:1], (*ADDED, "<end>"), None):
        with pytest.raises(InputError, match=r"differs from the vocabulary that the run began with"):
            run_finetune(change(steps=1, epochs=2, resume=True, add_tokens=others))
    run_finetune(change(steps=1, epochs=2, resume=True))
    assert len(read_hdf5(Path("output/m/state.h5"))["losses"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".safetensors", ".ckpt"])
def test_a_resumed_run_ends_with_the_same_weights_in_every_format(talks: Path, suffix: str) -> None:
    whole = run_finetune(change(**HOW, epochs=2, output_name=f"whole{suffix}"))
    run_finetune(change(**HOW, output_name=f"m{suffix}"))
    path = run_finetune(change(**HOW, epochs=2, resume=True, output_name=f"m{suffix}"))
    for one, other in [(whole, path), (place_last(whole), place_last(path))]:
        assert are_identical(read_weights(one), read_weights(other))
        assert open_model(one).tokenizer.encode("<bot>") == open_model(other).tokenizer.encode("<bot>") == [BOT]


def test_texts_that_are_tokens_already_are_left(workplace: Path) -> None:
    once = add_tokens(open_model("models/tiny"), ADDED)
    assert once.remark == "added tokens: <user> (512), <bot> (513)"
    again = add_tokens(once, ("<bot>", "<end>", "<|endoftext|>", "<end>"))
    assert again.remark.endswith("\nadded tokens: <end> (514); in the vocabulary already: <bot>, <|endoftext|>")
    assert again.config.n_vocab == again.tokenizer.n_vocab == len(again.checkpoint.read("wte")) == 515
    assert add_tokens(again, ["<end>"]).config == again.config


def test_a_random_network_has_random_rows_for_them(workplace: Path) -> None:
    model = open_random_model(change(from_scratch=True, n_layer=1, n_embd=32, n_head=2))
    rows = model.checkpoint.read("wte")[[USER, BOT]]
    assert model.config.n_vocab == 514 and rows.std() == pytest.approx(0.02, rel=0.5) and not (rows[0] == rows[1]).any()
    assert model.tokenizer.encode("<user>") == [USER] and model.remark == "added tokens: <user> (512), <bot> (513)"


@pytest.mark.parametrize("token", ["", " ", "\t", "a\nb", "a\r", "a\u2028b", "\ud800"])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(InputError, match=r"^add_tokens='.*': cannot be a token: use texts of one line"):
        change(add_tokens=("<user>", token))


def test_adapters_never_replace_the_training_of_new_tokens() -> None:
    """`--memory` may choose LoRA, which would leave them untrained."""
    assert change().memory_plan("float32").freezes and not change(add_tokens=None).memory_plan("float32").freezes


@pytest.mark.slow
def test_a_recipe_repeats_the_run(talks: Path) -> None:
    path = run_finetune(change())
    assert main(["finetune", "--config=output/m/run.toml", "--output=again.h5"]) == 0
    assert are_identical(read_weights(path), read_weights(Path("output/again.h5")))


@pytest.mark.slow
def test_transformers_reads_the_longer_vocabulary(talks: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = run_finetune(change(steps=1, output="hf/model.safetensors", output_name=None))
    theirs = transformers.AutoTokenizer.from_pretrained("hf")
    for text in ("<user>The tide?<bot>Home.", "a <user> b<bot>", "<user><user>", "<use r>"):
        assert theirs.encode(text) == open_model(path).tokenizer.encode(text)
    assert transformers.AutoConfig.from_pretrained("hf").vocab_size == len(theirs) == 514
