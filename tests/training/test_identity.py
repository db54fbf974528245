"""What a run began with: its weights and its vocabulary, whatever their files hold later. Runs on either backend."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

from gpt_tf2 import InputError, load_model, save_model
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.commands import finetune as command
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import identify_run
from gpt_tf2.config import GPT2Config
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE
from gpt_tf2.training.state import FORMER, SEALED, TEMPLATE, VOCABULARY, WEIGHTS, check_run, read_run
from helpers import made_up
from helpers.finetuning import are_identical, change_settings, read_hdf5, read_weights
from helpers.workplace import OPENAI_TINY, swap_last_tokens

pytestmark = [pytest.mark.usefixtures("without_graphs")]
if os.environ.get("KERAS_BACKEND") == "jax":  # what is tested here is the same on both
    pytestmark.append(pytest.mark.slow)

ONE_STEP: dict[str, Any] = {"epochs": 1, "steps": 1, "dropout": 0.0, "val_fraction": 0.0, "length": 8}
LORA: dict[str, Any] = {"lora_rank": 1, "precision": "float32"}
CONFIG = GPT2Config(n_vocab=300, n_ctx=16, n_embd=8, n_head=2, n_layer=1)
DATA = "model.ckpt.data-00000-of-00001"


def change_base(folder: Path) -> None:
    """Changes the lowest bit of one weight of a TF1 checkpoint, as TensorFlow would write it."""
    from gpt_tf2.checkpoints import openai

    checkpoint = openai.open_checkpoint(folder / "model.ckpt")
    tensors = {name: checkpoint.read(name) for name in checkpoint.shapes}
    tensors["h1/mlp/c_fc/w"].view("int32").flat[-1] ^= 1
    openai.write(folder / "model.ckpt", GPT2Config.from_json(folder / "hparams.json"), tensors)


@pytest.mark.parametrize(
    "how",
    [LORA, pytest.param({"freeze": ("wte", "wpe", "h0-1")}, marks=pytest.mark.slow), {}],
    ids=["lora", "freeze", "all"],
)
def test_a_run_resumes_only_with_the_weights_and_the_vocabulary_that_it_began_with(
    workplace: Path, how: dict[str, Any]
) -> None:
    settings = change_settings(**ONE_STEP, **how)
    run_finetune(settings)
    written = {path: path.read_bytes() for path in Path("output").rglob("*") if path.is_file()}
    shutil.copytree("models/tiny", "models/other")
    change_base(Path("models/other"))
    resumed = {**ONE_STEP, **how, "epochs": 2, "resume": True}
    line = r"^models/other/model\.ckpt: differs from the weights that the run began with \(output/m/state\.h5\): use"
    with pytest.raises(InputError, match=line):
        run_finetune(change_settings(**resumed, model="other"))
    swap_last_tokens(Path("models/tiny"))
    line = (
        r"^models/tiny/encoder\.json: differs from the vocabulary that the run began with \(output/m/state\.h5\): use"
    )
    with pytest.raises(InputError, match=line):
        run_finetune(change_settings(**resumed))
    assert {path: path.read_bytes() for path in Path("output").rglob("*") if path.is_file()} == written
    Path("models/tiny").rename("moved")
    shutil.copy(OPENAI_TINY / "encoder.json", "moved")
    shutil.copy(OPENAI_TINY / "vocab.bpe", "moved")
    run_finetune(change_settings(**resumed, model="moved"))
    assert len(read_hdf5(Path("output/m/state.h5"))["losses"]) == 2


def test_what_is_replaced_during_training_is_not_saved_as_what_was_trained(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = command.train

    def replace_and_train(*arguments: Any) -> None:
        change_base(Path("models/tiny"))
        swap_last_tokens(Path("models/tiny"))
        train(*arguments)

    monkeypatch.setattr(command, "train", replace_and_train)
    path = run_finetune(change_settings(**ONE_STEP, **LORA))
    for name in ("encoder.json", "vocab.bpe"):
        assert Path("output/m", name).read_bytes() == (OPENAI_TINY / name).read_bytes()
    with pytest.raises(InputError, match="made for another model than the one now at models/tiny"):
        load_model(path)
    shutil.copy(OPENAI_TINY / DATA, "models/tiny")
    shutil.copy(OPENAI_TINY / "model.ckpt.index", "models/tiny")
    load_model(path)


def test_a_model_that_is_replaced_while_it_is_read_is_an_error(workplace: Path) -> None:
    save_model(load_model("models/tiny"), "hf/model.safetensors", open_model("models/tiny").tokenizer)
    model = open_model("hf")
    content = Path("hf/model.safetensors").read_bytes()

    def replace(name: str, digest: str) -> None:
        Path("hf/new").write_bytes(content[:-4] + bytes(4))
        Path("hf/new").replace("hf/model.safetensors")

    with pytest.raises(InputError, match=r"^hf/model\.safetensors: has changed since it was opened: start again$"):
        model.load(note=replace)


@pytest.mark.parametrize("how", [LORA, pytest.param({}, marks=pytest.mark.slow)], ids=["lora", "all"])
def test_a_run_that_an_earlier_version_saved_resumes(workplace: Path, how: dict[str, Any]) -> None:
    run_finetune(change_settings(**ONE_STEP, **how))
    with h5py.File("output/m/state.h5", "r+") as file:
        run = json.loads(file.attrs["run"])
        del file.attrs[SEALED]
        file.attrs["run"] = json.dumps(
            {key: run[key] for key in run if key not in (WEIGHTS, VOCABULARY, TEMPLATE, "--lora_alpha", *FORMER)}
        )
    with Path("output/m/state.h5").open("ab") as file:
        file.write(b"\0")  # the checksum is not at the end any more: as in a file without one
    run_finetune(change_settings(**{**ONE_STEP, **how, "epochs": 2, "resume": True}))
    assert read_run(Path("output/m/state.h5")) == run


@pytest.mark.slow
def test_skipping_is_part_of_a_run_only_where_something_is_too_long(workplace: Path) -> None:
    made_up.write_model(Path("models/small"), 256)
    made_up.write_stories(Path("stories"), train=8)
    how = change_settings(**ONE_STEP, data="stories", task="cnndm", model="small")
    short, long = dataclasses.replace(how, length=70), dataclasses.replace(how, length=256, output_name="long.h5")
    run_finetune(dataclasses.replace(short, too_long="skip"))
    with h5py.File("output/m/state.h5", "r+") as file:
        run = json.loads(file.attrs["run"])
        assert (run.pop("--too_long"), run.pop("--highlights")) == ("skip", "one")
        del file.attrs[SEALED]
        file.attrs["run"] = json.dumps(run)  # as earlier versions saved it
    with Path("output/m/state.h5").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"^too_long=shorten: was skip when the run began .*: use the same value"):
        run_finetune(dataclasses.replace(short, resume=True))
    with pytest.raises(InputError, match=r"^highlights=all: was one when the run began"):
        run_finetune(dataclasses.replace(short, too_long="skip", highlights="all", resume=True))
    run_finetune(dataclasses.replace(short, too_long="skip", resume=True, epochs=2))
    run_finetune(long)
    run_finetune(dataclasses.replace(long, too_long="skip", resume=True, epochs=2))
    assert [len(read_hdf5(Path(f"output/{name}/state.h5"))["losses"]) for name in ("m", "long")] == [2, 2]


@pytest.mark.slow
def test_a_run_that_writes_to_the_model_it_began_with_resumes(workplace: Path) -> None:
    how = {**ONE_STEP, "freeze": ("wte",), "model_ckpt": "output/m.h5"}
    begun = run_finetune(change_settings(**ONE_STEP))
    Path("output/m/state.h5").unlink()
    run_finetune(change_settings(**{**how, "epochs": 2, "output_name": "whole.h5"}))
    run_finetune(change_settings(**how))
    run_finetune(change_settings(**{**how, "epochs": 2, "resume": True}))
    assert are_identical(read_weights(begun), read_weights(Path("output/whole.h5")))
    with pytest.raises(InputError, match="differs from the weights"):  # wte is not the frozen one
        with h5py.File(begun, "r+") as file:
            file["wte"][0, 0] += 1
        run_finetune(change_settings(**{**how, "epochs": 2, "resume": True}))


@pytest.mark.parametrize(("began", "goes_on", "was"), [(None, "int8", "not set"), ("int8", None, "int8")])
def test_a_base_in_int8_is_part_of_a_run(began: str | None, goes_on: str | None, was: str) -> None:
    saved, run = (
        identify_run(change_settings(**LORA, base_precision=base), CONFIG, "", None, "", is_shortened=False)
        for base in (began, goes_on)
    )
    with pytest.raises(InputError) as error:
        check_run(Path("state.h5"), run, saved, {})
    line = f"was {was} when the run began (state.h5): use the same value, or leave --resume out"
    assert error.value.on_command_line() == f"--base_precision{f' {goes_on}' if goes_on else ''}: {line}"


def test_another_chat_template_is_named_as_what_has_changed() -> None:
    """The data's tokens, which it has changed too, are compared after it."""
    other = DEFAULT_TEMPLATE._replace(user=("\nYou: ", ""))
    saved, run = (
        identify_run(change_settings(), CONFIG, "", template, key, is_shortened=False)
        for template, key in ((DEFAULT_TEMPLATE, "a"), (other, "b"))
    )
    with pytest.raises(InputError, match=r"^the chat template has changed since the run began \(state\.h5\): use the"):
        check_run(Path("state.h5"), run, saved, {})
    del saved[TEMPLATE]  # as earlier versions saved it
    with pytest.raises(InputError, match=r"^the text of data has changed"):
        check_run(Path("state.h5"), run, saved, {})


def test_adapters_never_replace_the_model_that_they_belong_to(workplace: Path) -> None:
    model = run_finetune(change_settings(**ONE_STEP))
    before = model.read_bytes()
    with pytest.raises(
        InputError, match=r"^output_name=m\.h5: the adapters would replace the model .*: choose another"
    ):
        run_finetune(change_settings(**ONE_STEP, **LORA, model_ckpt=str(model)))
    assert model.read_bytes() == before
