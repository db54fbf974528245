"""`finetune --objective dpo`: what a run learns, keeps and refuses. Runs on either backend."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt_tf2
from gpt_tf2 import InputError, load_model
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.data.pairs import PackedPairs
from gpt_tf2.data.prepared import prepare
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tokenizer import Tokenizer
from gpt_tf2.training import reference
from helpers.finetuning import are_identical, read_hdf5
from helpers.made_up import PEOPLE, PLACES, THINGS

PAIRS = 150
RUN: dict[str, Any] = {
    "data": "pairs.jsonl",
    "objective": "dpo",
    "model": "tiny",
    "output_name": "m.h5",
    "length": 64,
    "steps": 10,
    "epochs": 2,
    "batch_size": 4,
    "lr": 1e-3,
    "precision": "float32",
    "val_fraction": 0.2,
    "sample_every": 0,
}


def write_pairs(path: Path = Path("pairs.jsonl")) -> None:
    """Writes pairs of a helpful and an unhelpful reply, in many words."""
    draw = random.Random(0)
    lines = []
    for _ in range(PAIRS):
        person, thing, place = draw.choice(PEOPLE), draw.choice(THINGS), draw.choice(PLACES)
        helpful = draw.choice([f" Gladly: it is in the {place}.", f" Yes, take the {thing}, gladly."])
        unhelpful = draw.choice([f" No, not in the {place}.", f" Who needs a {thing}? Go away."])
        lines.append({"prompt": f"The {person} asked for a {thing}.", "chosen": helpful, "rejected": unhelpful})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def settings(**others: Any) -> FinetuneSettings:
    return FinetuneSettings(**RUN | others)


@pytest.fixture
def pairs(workplace: Path) -> Path:
    """The current folder of a test, with the model `models/tiny` and `pairs.jsonl`."""
    write_pairs()
    return workplace


def measure_accuracy(model: Path) -> float:
    """The share of the held-out pairs of which a model finds the chosen completion likelier than the first model does,
    compared with the rejected one."""
    tokenizer = Tokenizer(Path("models/tiny/encoder.json"), Path("models/tiny/vocab.bpe"))
    tokens = prepare(
        find_task("preferences"), "pairs.jsonl", "train", tokenizer, None, lambda done, total: None, lambda: None
    )
    held_out = PackedPairs(tokens, np.arange(PAIRS * 4 // 5, PAIRS), 64, tokenizer.end_of_text, 0.1)
    first, trained = (
        reference.measure_reference(load_model(path), [held_out], 4, lambda done, total: None)[0]
        for path in (Path("models/tiny"), model)
    )
    gains = (trained - first).reshape(-1, 4)[PAIRS * 4 // 5 :]
    return float((gains[:, 2] > gains[:, 3]).mean())


def test_a_tiny_model_learns_to_prefer(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    output = run_finetune(settings())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("validation loss after")]
    accuracies = [float(line.rpartition("accuracy ")[2]) for line in lines]
    assert accuracies[0] == 0.5 and accuracies[-1] >= 0.9
    losses = [float(line.split(": ")[1].split()[0]) for line in lines]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3) and losses[-1] < 0.3
    assert measure_accuracy(output) >= 0.9


@pytest.mark.slow
def test_data_that_is_divided_otherwise_has_another_reference(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    for val_fraction in (0.4, 0.0):
        run_finetune(settings(val_fraction=val_fraction, steps=1, epochs=1))
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("step 1/1"))
        assert "loss 0.693 · reward margin" in line


@pytest.mark.parametrize(
    "others",
    [{}, pytest.param({"lora_rank": 4, "accumulate": 2, "clip_norm": 1.0}, marks=pytest.mark.slow)],
    ids=["all", "lora"],
)
@pytest.mark.slow
def test_a_resumed_run_ends_bit_identical_with_the_reference_that_is_kept(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, others: dict[str, Any]
) -> None:
    others = others | {"steps": 2}
    run_finetune(settings(**others))
    monkeypatch.setattr(reference, "measure_reference", None)  # it is computed no more
    run_finetune(settings(**others, output_name="again.h5", epochs=1))
    with pytest.raises(InputError, match=r"was 0\.1 when the run began"):
        run_finetune(settings(**others, output_name="again.h5", resume=True, dpo_beta=0.2))
    run_finetune(settings(**others, output_name="again.h5", resume=True, dpo_beta=0.1))
    one, other = (read_hdf5(Path(f"output/{name}/state.h5")) for name in ("m", "again"))
    assert are_identical(one, other) and len(one["losses"]) == 4


@pytest.mark.slow
def test_a_run_that_replaced_its_first_weights_does_not_go_on_without_its_reference(pairs: Path) -> None:
    others: dict[str, Any] = {
        "output_name": None,
        "output": "./models/tiny/model.ckpt",
        "val_fraction": 0.0,
        "epochs": 1,
    }
    short = {"steps": 2, "batch_size": 1}
    run_finetune(settings(**short, **others))
    for folder in Path(".gpt_tf2").glob("reference-*"):
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"the reference beside the data is lost: leave resume out"):
        run_finetune(settings(**short, **others | {"epochs": 2}, resume=True))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objective=dpo", "--task=coqa"], "--task coqa: holds no preferences: use preferences for --objective dpo"),
        (["--objective=dpo", "--loss_on=all"], "--loss_on all: is of a likelihood"),
        (["--dpo_beta=0.5"], "--dpo_beta 0.5: belongs to --objective dpo: give that as well"),
        (["--objective=dpo", "--dpo_beta=0"], "--dpo_beta 0"),
        (
            ["--task=preferences"],
            "--task preferences: has a completion that is not to be learned: give --objective dpo",
        ),
        (["--objective=dpo", "--length=8"], "is longer than 8 tokens: raise --length"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(
    pairs: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["finetune", "--data=pairs.jsonl", "--model=tiny", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not Path("output").exists()


def test_the_memory_of_a_step_is_that_of_twice_the_sequences() -> None:
    assert settings(accumulate=2).memory_plan("float32").sequences == 4
    assert settings(accumulate=2, objective="likelihood").memory_plan("float32").sequences == 2


def test_preferences_are_not_evaluated(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    # Before the model is looked for, which may be a download.
    assert main(["evaluate", "--task=preferences", "--data=pairs.jsonl", "--model=no.h5"]) == 2
    assert "--task preferences: is trained on, not scored" in capsys.readouterr().err
    with pytest.raises(TypeError, match="no predictions are made for this task"):
        find_task("preferences").write([])


def test_preferences_may_be_in_memory(pairs: Path) -> None:
    data = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()][:20]
    short = {"objective": "dpo", "model": "tiny", "length": 64, "steps": 2, "epochs": 1, "lr": 1e-3, "verbose": 0}
    (loss,) = gpt_tf2.finetune(data, **short).history["loss"]
    assert loss < np.log(2) and not Path(".gpt_tf2").exists()
    with pytest.raises(InputError, match="has no preferences: give dictionaries with prompt, chosen and rejected"):
        gpt_tf2.finetune([("a", "b")], **short)
