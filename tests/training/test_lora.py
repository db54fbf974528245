"""Adapters, frozen tensors and optimizers through the commands. Runs on either backend."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError, Tokenizer, load_model
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.generate import GenerateSettings, generate
from gpt_tf2.data.batches import StreamWindows, split
from gpt_tf2.data.encoding import read_streams
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.training.blockwise import BlockwiseModel
from helpers.finetuning import SETTINGS, are_identical, change_settings, read_hdf5, read_weights, run_in_new_folder

LORA = {"lora_rank": 4, "lr": 0.01, "precision": "float32"}


@pytest.fixture(scope="module")
def adapters_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the short run has trained adapters."""
    return run_in_new_folder(tmp_path_factory, **LORA, sample_every=5)


@pytest.fixture
def trained(workplace: Path, adapters_run: Path) -> Path:
    """The adapters that the short run has written into the current folder."""
    shutil.copytree(adapters_run / "output", workplace / "output")
    return Path("output/m.h5")


def test_only_adapters_are_saved_and_merge_writes_a_plain_checkpoint(trained: Path) -> None:
    state = read_hdf5(Path("output/m/state.h5"))
    assert state["losses"][-1] < state["losses"][0] - 0.3
    assert {name.split("/")[-1] for name in read_hdf5(trained)} == {"lora_a", "lora_b"}
    assert trained.stat().st_size < Path("models/tiny/model.ckpt.data-00000-of-00001").stat().st_size / 2
    assert main(["merge", str(trained), "merged/model.safetensors"]) == 0
    base, merged = read_weights(Path("models/tiny")), read_weights(Path("merged/model.safetensors"))
    adapters = read_hdf5(trained)
    for name, values in merged.items():
        matrix = name.removesuffix("w")
        if f"{matrix}lora_a" in adapters:
            assert np.abs(values - base[name]).max() > 1e-4
            np.testing.assert_allclose(values, base[name] + adapters[f"{matrix}lora_a"] @ adapters[f"{matrix}lora_b"])
        else:
            assert np.array_equal(values, base[name])


def test_generation_from_adapters_equals_generation_from_the_merged_model(trained: Path) -> None:
    assert main(["merge", str(trained), "merged.h5"]) == 0
    texts = [
        generate(GenerateSettings(model=str(model), prompt="The 7", max_new_tokens=20, temperature=0.0))
        for model in (trained, "merged.h5")
    ]
    assert texts[0] == texts[1]


def test_the_merged_model_has_the_loss_of_the_last_validation(trained: Path) -> None:
    tokenizer = Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    streams = read_streams(find_task("text").running_text, "story.txt", tokenizer, Skipped())
    held_out = StreamWindows(split(streams, SETTINGS.val_fraction)[1], SETTINGS.length)
    blockwise, batches = BlockwiseModel(load_model(trained), ()), list(held_out.windows(2, 64))
    loss = sum(float(blockwise.loss(batch)) for batch in batches) / sum(batch.weights.sum() for batch in batches)
    assert loss == pytest.approx(read_hdf5(Path("output/m/state.h5"))["validation"][-1, 1], rel=1e-5)


@pytest.mark.slow
def test_a_run_with_adapters_resumes_exactly(workplace: Path) -> None:
    run_finetune(change_settings(**LORA, output_name="whole.h5"))
    run_finetune(change_settings(**LORA, epochs=1))
    run_finetune(change_settings(**LORA, resume=True))
    assert are_identical(read_hdf5(Path("output/whole/state.h5")), read_hdf5(Path("output/m/state.h5")))


def test_adapters_are_refused_without_their_base_model(trained: Path, capsys: pytest.CaptureFixture) -> None:
    other = run_finetune(change_settings(output_name="other.ckpt", epochs=1, steps=1))
    for source in other.parent.glob("other.ckpt.*"):
        source.replace(Path("models/tiny") / source.name.replace("other", "model"))
    with pytest.raises(InputError, match="made for another model"):
        load_model(trained)
    for part in Path("models/tiny").glob("model.ckpt*"):
        part.unlink()
    with pytest.raises(InputError, match=r"holds adapters of models/tiny/model\.ckpt, which cannot be opened"):
        load_model(trained)
    assert main(["merge", "story.txt", "x.h5"]) == 2
    assert "story.txt: damaged, or not written by gpt-tf2 (no HDF5)" in capsys.readouterr().err


def test_frozen_tensors_do_not_change(workplace: Path) -> None:
    before, after = (
        read_weights(Path("models/tiny")),
        read_weights(run_finetune(change_settings(freeze=("wte", "h0-1", "ln_2")))),
    )
    unchanged = {name for name in before if np.array_equal(before[name], after[name])}
    assert unchanged == {n for n in before if n == "wte" or n.startswith(("h0/", "h1/")) or "ln_2" in n}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"optimizer": "lion", "lr": 1e-4}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adafactor", "lr": 0.05}, marks=pytest.mark.slow),
    ],
)
def test_other_optimizers_learn_and_resume_exactly(workplace: Path, options: dict) -> None:
    options |= {"accumulate": 2, "clip_norm": 1.0}
    run_finetune(change_settings(**options, output_name="whole.h5", remat="on"))
    run_finetune(change_settings(**options, epochs=1, remat="on"))
    run_finetune(change_settings(**options, remat="auto", resume=True))
    whole = read_hdf5(Path("output/whole/state.h5"))
    assert are_identical(whole, read_hdf5(Path("output/m/state.h5")))
    assert whole["validation"][-1, 1] < whole["validation"][0, 1] - 0.1
