"""`finetune --add_tokens`: texts that become one token each, trained, saved and drawn. Runs on either backend."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt_tf2
from gpt_tf2 import InputError, load_model
from gpt_tf2.checkpoints.opened import open_model, save_model
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import finetune, run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.from_scratch import open_random_model
from gpt_tf2.model import GPT2
from helpers.finetuning import are_identical, change_settings, read_weights

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


def test_their_rows_begin_at_the_mean_embedding_and_are_trained(talks: Path) -> None:
    before = read_weights(Path("models/tiny"))["wte"]
    for lr, trained in [(1e-12, False), (1e-2, True)]:
        rows = read_weights(run_finetune(change(lr=lr)))["wte"][[USER, BOT]]
        assert np.allclose(rows, before.mean(axis=0), atol=1e-7) != trained


def test_rows_that_a_padded_model_has_already_are_used(talks: Path) -> None:
    small = open_model("models/tiny")
    tensors = read_weights(Path("models/tiny"))
    tensors["wte"] = np.concatenate([tensors["wte"], np.full((16, 48), 9, "float32")])
    config = gpt_tf2.GPT2Config(**small.config.to_dict() | {"n_vocab": 528})
    save_model(GPT2(config, read=tensors.__getitem__), "padded.h5", small.tokenizer)
    after = read_weights(run_finetune(change(model="padded.h5", lr=1e-12)))["wte"]
    assert np.allclose(after[:512], tensors["wte"][:512], atol=1e-7) and (after[514:] == 9).all()
    assert np.allclose(after[[USER, BOT]], tensors["wte"][:512].mean(axis=0), atol=1e-7)


@pytest.mark.parametrize("output", ["whole.safetensors", pytest.param("whole.ckpt", marks=pytest.mark.slow)])
def test_a_run_resumes_only_with_the_same_tokens_and_to_the_same_weights(talks: Path, output: str) -> None:
    how = {"freeze": ("h0",), "precision": "bfloat16", "val_fraction": 0.1, "dropout": 0.1}
    whole = run_finetune(change(**how, epochs=2, output_name=output))
    run_finetune(change(**how, output_name=f"m{whole.suffix}"))
    resumed: dict[str, Any] = {**how, "epochs": 2, "resume": True, "output_name": f"m{whole.suffix}"}
    for others in (ADDED[::-1], ADDED[:1], None):
        with pytest.raises(InputError, match=r"vocabulary that the run began with|was <user>,<bot> when the run began"):
            run_finetune(change(**resumed, add_tokens=others))
    path = run_finetune(change(**resumed))
    last = [path.with_name(path.name.replace(".", "-last.")) for path in (whole, path)]
    for one, other in [(whole, path), last]:
        assert are_identical(read_weights(one), read_weights(other))
        assert open_model(one).tokenizer.encode("<bot>") == [BOT]


def test_texts_that_are_tokens_already_are_left(talks: Path, capsys: pytest.CaptureFixture) -> None:
    run_finetune(change())
    capsys.readouterr()
    again = run_finetune(
        change(model="output/m.h5", add_tokens=("<bot>", "<end>", "<|endoftext|>"), output_name="n.h5")
    )
    assert "added tokens: <end> (514); in the vocabulary already: <bot>, <|endoftext|>\n" in capsys.readouterr().out
    assert open_model(again).config.n_vocab == 515
    run_finetune(change(model="output/n.h5", add_tokens=("<end>",), output_name="o.h5"))
    assert "in the vocabulary already: <end>\n" in capsys.readouterr().out
    assert load_model("output/o.h5").config.n_vocab == 515


def test_a_random_network_has_rows_for_them(talks: Path, capsys: pytest.CaptureFixture) -> None:
    shape = {"n_layer": 1, "n_embd": 32, "n_head": 2}
    settings = change(from_scratch=True, **shape)
    model = open_random_model(settings)
    rows = model.checkpoint.read("wte")[[USER, BOT]]
    assert model.config.n_vocab == 514 and rows.std() == pytest.approx(0.02, rel=0.5) and not (rows[0] == rows[1]).any()
    run, trainer, _ = finetune(settings)
    assert run.model.tokenizer.encode("<user>") == [USER] and trainer.model.config.n_vocab == 514
    assert "added tokens: <user> (512), <bot> (513)" in capsys.readouterr().out


@pytest.mark.parametrize("token", ["", " ", "\t", "a\nb", "a\r", "a\u2028b", "\ud800"])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(InputError, match=r"^add_tokens='.*': cannot be a token: use texts of one line"):
        change(add_tokens=("<user>", token))


def test_adapters_never_replace_the_training_of_new_tokens() -> None:
    """`--memory` may choose LoRA, which would leave them untrained."""
    assert change().memory_plan("float32").freezes and not change(add_tokens=None).memory_plan("float32").freezes


def test_a_recipe_repeats_the_run(talks: Path) -> None:
    path = run_finetune(change())
    assert main(["finetune", "--config=output/m/run.toml", "--output=again.h5"]) == 0
    assert are_identical(read_weights(path), read_weights(Path("output/again.h5")))
