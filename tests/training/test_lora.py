"""Adapters, frozen tensors and optimizers through the commands. Runs on either backend."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt_tf2 import GPT2, GPT2Config, InputError, Tokenizer, load, load_model, save_model
from gpt_tf2.checkpoints.formats import open_adapters
from gpt_tf2.checkpoints.peft import peft_name
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.generate import GenerateSettings, generate
from gpt_tf2.commands.merge import list_beside
from gpt_tf2.config import adapter_shapes
from gpt_tf2.data.batches import StreamWindows, split, whole_rows
from gpt_tf2.data.encoding import read_streams
from gpt_tf2.model import random_tensors
from gpt_tf2.tasks.examples import Skipped
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.training.blockwise import BlockwiseModel
from gpt_tf2.training.lora import add_adapters
from helpers.finetuning import SETTINGS, are_identical, change_settings, read_hdf5, read_weights, run_in_new_folder
from helpers.gradients import compute_gradients
from helpers.workplace import list_names

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
    assert sorted([*list_beside(Path("merged/model.safetensors")), "model.safetensors"]) == list_names(Path("merged"))
    base, merged = read_weights(Path("models/tiny")), read_weights(Path("merged/model.safetensors"))
    adapters = read_hdf5(trained)
    for name, values in merged.items():
        matrix = name.removesuffix("w")
        if f"{matrix}lora_a" in adapters:
            assert np.abs(values - base[name]).max() > 1e-4
            np.testing.assert_allclose(values, base[name] + adapters[f"{matrix}lora_a"] @ adapters[f"{matrix}lora_b"])
        else:
            assert np.array_equal(values, base[name])


@pytest.mark.parametrize(
    "settings", [{"r": 4, "lora_alpha": 10}, {"r": 2, "lora_alpha": 3, "use_rslora": True}], ids=str
)
def test_gradients_with_alpha_equal_pefts(tmp_path: Path, settings: dict) -> None:
    torch, transformers, library = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    config = GPT2Config(n_vocab=61, n_ctx=16, n_embd=12, n_head=3, n_layer=2)
    network = GPT2(config, read=random_tensors(config, seed=1, std=0.2))
    save_model(network, tmp_path / "model.safetensors")
    theirs = library.get_peft_model(
        transformers.GPT2LMHeadModel.from_pretrained(tmp_path),
        library.LoraConfig(target_modules="all-linear", fan_in_fan_out=True, **settings),
    )
    rank, scale = settings["r"], settings["lora_alpha"] / settings["r"] ** (0.5 if "use_rslora" in settings else 1)
    shapes = adapter_shapes(config, rank)
    add_adapters(network, shapes, alpha=scale * rank)
    parameters = {name.replace(".default", ""): value for name, value in theirs.named_parameters()}
    draw = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = draw.standard_normal(shape).astype("float32") / 5
        network.tensors()[name].assign(values)
        parameters[peft_name(name)].data = torch.tensor(values.T)
    tokens = draw.integers(0, 61, (3, 16)).astype("int32")
    loss, gradients = compute_gradients(BlockwiseModel(network, shapes), whole_rows(tokens))
    expected = theirs(torch.tensor(tokens), labels=torch.tensor(tokens, dtype=torch.int64)).loss
    expected.backward()
    assert loss / (3 * 15) == pytest.approx(expected.item(), rel=1e-5)
    assert gradients.keys() == shapes.keys()
    for name, gradient in gradients.items():
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(gradient, parameters[peft_name(name)].grad.numpy().T, atol=1e-5)


@pytest.mark.slow
def test_alpha_is_learned_with_saved_and_part_of_the_run(workplace: Path) -> None:
    losses = []
    for alpha in (None, 12):
        run_finetune(change_settings(**LORA, lora_alpha=alpha, epochs=1, output_name=f"{alpha}.h5"))
        losses.append(read_hdf5(Path(f"output/{alpha}/state.h5"))["losses"])
    assert losses[1][0] == losses[0][0] and abs(losses[1][-1] - losses[0][-1]) > 0.01
    adapters, base = read_hdf5(Path("output/12.h5")), read_weights(Path("models/tiny"))
    merged = read_weights(Path("output/12.h5"))["h1/mlp/c_fc/w"]
    product = adapters["h1/mlp/c_fc/lora_a"] @ adapters["h1/mlp/c_fc/lora_b"]
    np.testing.assert_allclose(merged, base["h1/mlp/c_fc/w"] + 3 * product, atol=1e-6)
    with pytest.raises(InputError, match=r"^lora_alpha=12: was 4 when the run began"):
        run_finetune(change_settings(**LORA, lora_alpha=12, resume=True, output_name="None.h5"))
    with pytest.raises(InputError, match=r"lora_alpha=4: was 12 when the run began"):
        run_finetune(change_settings(**LORA, lora_alpha=4, resume=True, output_name="12.h5"))
    run_finetune(change_settings(**LORA, lora_alpha=4, epochs=1, resume=True, output_name="None.h5"))


@pytest.mark.slow
def test_pefts_folder_is_written_resumed_and_read(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    run_finetune(change_settings(**LORA, lora_alpha=8, epochs=1, output_name="style"))
    path = run_finetune(change_settings(**LORA, lora_alpha=8, resume=True, output_name="style"))
    assert path == Path("output/style/adapter_model.safetensors")
    settings = json.loads(path.with_name("adapter_config.json").read_text())
    assert settings["lora_alpha"] == 8 and settings["r"] == 4 and settings["fan_in_fan_out"] is True
    state, adapters = read_hdf5(path.with_name("state.h5")), open_adapters(path)
    assert len(state["losses"]) == 12 and adapters and adapters.scale("h0/mlp/c_fc/lora_a") == 2
    for name in adapters.shapes:
        assert np.array_equal(adapters.read(name), state[f"model/{name}"])
    assert {"vocab.json", "merges.txt", "run.toml", "state.h5"} <= set(list_names(path.parent))
    capsys.readouterr()
    assert main(["models"]) == 0
    assert "  adapters of tiny on story.txt, epochs 2, lr 0.01\n" in capsys.readouterr().out
    assert main(["merge", "output/style", "merged.h5"]) == 0
    out, err = capsys.readouterr()
    saved, err = err.split("\n", 1)
    assert saved == "saved merged.h5, and in merged/ what belongs to it: encoder.json, vocab.bpe"
    difference = re.fullmatch(r"largest logit difference between base \+ adapters and the merged model: (\S+)\n", err)
    assert out == "merged.h5\n" and difference and float(difference[1]) < 1e-4
    assert are_identical(read_weights(Path("merged.h5")), read_weights(path))
    save_file(load_file(path), path)  # as peft writes it, without our digests
    assert main(["merge", "output/style", "again.h5"]) == 0
    unknown = "these adapters keep no digest of their model, so models/tiny/model.ckpt could not be checked"
    assert capsys.readouterr().err.splitlines()[0] == f"{path}: {unknown}"
    assert are_identical(read_weights(Path("again.h5")), read_weights(Path("merged.h5")))


def test_merge_replaces_neither_the_base_nor_the_adapters(trained: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for output in ("models/tiny", "models/tiny/model.ckpt", "models/tiny/model.h5", str(trained), "models/tiny/"):
        assert main(["merge", str(trained), output]) == 2
        assert "choose another" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert main(["merge", "tiny", "x.h5"]) == 2
    assert "models/tiny: holds no adapters: give a file written by finetune with --lora_rank" in capsys.readouterr().err


def test_adapters_do_not_share_a_folder_with_their_model(workplace: Path) -> None:
    with pytest.raises(
        InputError, match=r"output=models/tiny: the adapters would share a folder with models/tiny/model"
    ):
        run_finetune(change_settings(**LORA, output_name=None, output="models/tiny"))
    with pytest.raises(InputError, match="lora_alpha=8: scales LoRA adapters: give lora_rank"):
        change_settings(lora_alpha=8)


@pytest.mark.slow
def test_base_names_another_place_and_other_content_is_refused(trained: Path, capsys: pytest.CaptureFixture) -> None:
    (expected,) = generate(GenerateSettings(model=str(trained), prompt="The 7", temperature=0.0))
    Path("models/tiny").rename("moved")
    flags = ["generate", f"--model={trained}", "--prompt=The 7", "--temperature=0"]
    assert main(flags) == 2
    assert "no such checkpoint: put it there, or give it as --base" in capsys.readouterr().err
    assert main([*flags, "--base=moved"]) == 0
    assert capsys.readouterr().out.startswith(expected)
    assert "The 7" + load(trained, base="moved").generate("The 7", temperature=0.0) == expected
    assert main(["evaluate", "--data=story.txt", f"--model={trained}", "--base=moved", "--batch_size=8"]) == 0
    assert main(["merge", str(trained), "merged.h5", "--base=moved"]) == 0
    capsys.readouterr()
    assert main([*flags, "--base=merged.h5"]) == 2
    assert "made for another model than the one now at merged.h5" in capsys.readouterr().err
    assert main(["generate", "--model=moved", "--base=merged.h5", "--prompt=The"]) == 2
    assert "--base merged.h5: moved/model.ckpt holds no adapters" in capsys.readouterr().err


@pytest.mark.slow
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
    assert "story.txt: not a checkpoint: give a folder of a model" in capsys.readouterr().err


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
