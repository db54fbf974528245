"""Bad input: exit code 2, one line on stderr with the setting or the file and the fix, and no file written."""

import dataclasses
import importlib
import json
import math
import os
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpt_tf2 import InputError, Tokenizer, commands, load_model, save_model
from gpt_tf2.cli import COMMANDS, main
from gpt_tf2.commands.flags import Flag, flags_of
from helpers.commands import FINETUNE, GENERATE, PROMPTS

TINY = Path("models/tiny")


def nothing() -> None:
    """The command itself is bad."""


def edit(path: Path, **values: object) -> Callable[[], None]:
    """Changes keys of a JSON file; None removes a key."""

    def act() -> None:
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return act


def write(path: str, text: str) -> Callable[[], None]:
    return lambda: Path(path).write_text(text) and None


def truncate(path: Path) -> Callable[[], None]:
    """Keeps the first half of a file."""
    return lambda: os.truncate(path, path.stat().st_size // 2)


def flip_a_byte(path: Path) -> Callable[[], None]:
    """Changes one byte in the middle."""

    def act() -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)

    return act


def save(name: str, damage: Callable[[], None] = nothing) -> Callable[[], None]:
    """Writes the tiny model and its vocabulary in another format, then damages it."""

    def act() -> None:
        save_model(load_model(TINY), name, Tokenizer(TINY / "encoder.json", TINY / "vocab.bpe"))
        damage()

    return act


def write_foreign_h5() -> None:
    with h5py.File("m.h5", "w") as file:
        file["layer"] = np.zeros(3)


def add_a_tensor() -> None:
    with h5py.File("m.h5", "a") as file:
        file["h9/more"] = np.zeros(3)


def write_another_vocabulary() -> None:
    """A complete vocabulary with ten merges more than the model's."""
    new = [("q", letter) for letter in "abcdefghij"]
    lines = (TINY / "vocab.bpe").read_text().splitlines() + [" ".join(pair) for pair in new]
    ids = json.loads((TINY / "encoder.json").read_text())
    more = {"".join(pair): 511 + i for i, pair in enumerate(new)} | {"<|endoftext|>": 521}
    Path("e.json").write_text(json.dumps(ids | more))
    Path("v.bpe").write_text("\n".join(lines) + "\n")


def make_unreadable() -> None:
    """A folder in the place of a file is unreadable even for root."""
    (TINY / "vocab.bpe").unlink()
    (TINY / "vocab.bpe").mkdir()


def write_damaged_state() -> None:
    Path("output/m").mkdir(parents=True)
    Path("output/m/state.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


def replace_models_by_a_file() -> None:
    shutil.rmtree("models")
    Path("models").write_text("x")


CASES: dict[str, tuple[str, Callable[[], None], list[str]]] = {
    # name: the command, what is done before it, words of the line
    "an unknown command": ("flnetune", nothing, ["unknown command", "finetune"]),
    "no data set": ("finetune --model=tiny", nothing, ["--data is required"]),
    "a missing data set": (f"{FINETUNE} --dataset_path=no.txt", nothing, ["--dataset_path no.txt", "give a file"]),
    "a glob without matches": (f"{FINETUNE} --dataset_path=*.md", nothing, ["--dataset_path *.md", "give"]),
    "an empty folder": (
        f"{FINETUNE} --dataset_path=empty",
        lambda: Path("empty").mkdir(),
        ["--dataset_path empty", "no such file", "give"],
    ),
    "an empty text": (f"{FINETUNE} --dataset_path=e.txt", lambda: Path("e.txt").touch(), ["e.txt", "no text", "give"]),
    "a text shorter than --length": (
        f"{FINETUNE} --dataset_path=s.txt",
        write("s.txt", "Short."),
        ["--dataset_path s.txt", "5 tokens", "--length is 32", "lower --length"],
    ),
    "held-out text shorter than --length": (
        f"{FINETUNE} --val_fraction=0.001",
        nothing,
        ["story.txt", "held out has 19 tokens", "--length is 32", "raise --val_fraction"],
    ),
    "an .npz that is not one": (
        f"{FINETUNE} --dataset_path=a.npz",
        write("a.npz", "no zip"),
        ["a.npz", "write it again"],
    ),
    "ids outside the vocabulary": (
        f"{FINETUNE} --dataset_path=a.npz",
        lambda: np.savez("a.npz", ids=np.arange(600)),
        ["a.npz", "array ids", "0 to 599", "512", "encode the text again"],
    ),
    "--length above n_ctx": (f"{FINETUNE} --length=65", nothing, ["--length 65", "n_ctx 64", "lower it"]),
    "--length 1": (f"{FINETUNE} --length=1", nothing, ["--length 1", "at least 2"]),
    "--batch_size 0": (f"{FINETUNE} --batch_size=0", nothing, ["--batch_size 0", "at least 1"]),
    "a number of 20 digits": (
        "show-data --dataset_path=story.txt --limit=99999999999999999999",
        nothing,
        ["--limit 99999999999999999999", "too large", "2^63"],
    ),
    "a number of 5,000 digits": (
        "show-data --dataset_path=story.txt --limit=" + "9" * 5000,
        nothing,
        ["--limit", "invalid int", "--help"],
    ),
    "a billion sequences in parallel": (f"{GENERATE} --batch_size=1000000000", nothing, ["--batch_size", "at most"]),
    "--batch_size two": (f"{FINETUNE} --batch_size=two", nothing, ["--batch_size", "two", "--help"]),
    "--num_epoch 0": (f"{FINETUNE} --num_epoch=0", nothing, ["--num_epoch 0", "at least 1"]),
    "--steps_per_epoch -1": (f"{FINETUNE} --steps_per_epoch=-1", nothing, ["--steps_per_epoch -1", "at least 1"]),
    "--base_lr 0": (f"{FINETUNE} --base_lr=0", nothing, ["--base_lr 0", "more than 0"]),
    "--base_lr nan": (f"{FINETUNE} --base_lr=nan", nothing, ["--base_lr nan", "more than 0"]),
    "--decay_lr -1": (f"{FINETUNE} --decay_lr=-1", nothing, ["--decay_lr -1", "more than 0"]),
    "--decay_epochs a": (f"{FINETUNE} --decay_epochs=a,b", nothing, ["--decay_epochs: a,b", "10,20"]),
    "--decay_epochs falling": (f"{FINETUNE} --decay_epochs=5,3", nothing, ["--decay_epochs 5,3", "rising"]),
    "--dropout 1": (f"{FINETUNE} --dropout=1", nothing, ["--dropout 1", "less than 1"]),
    "--optimizer sgd": (f"{FINETUNE} --optimizer=sgd", nothing, ["--optimizer", "sgd", "adafactor"]),
    "--weight_decay -1": (f"{FINETUNE} --weight_decay=-1", nothing, ["--weight_decay -1", "0 or more"]),
    "--clip_norm nan": (f"{FINETUNE} --clip_norm=nan", nothing, ["--clip_norm nan", "0 or more"]),
    "--accumulate 3": (
        f"{FINETUNE} --accumulate=3",
        nothing,
        ["--accumulate 3", "only 1 sequences", "raise --batch_size"],
    ),
    "--lora_rank -1": (f"{FINETUNE} --lora_rank=-1", nothing, ["--lora_rank -1", "0 or more"]),
    "--lora_alpha 0": (f"{FINETUNE} --lora_rank=2 --lora_alpha=0", nothing, ["--lora_alpha 0", "more than 0"]),
    "--too_long of a text": (f"{FINETUNE} --too_long=skip", nothing, ["--too_long skip", "leave it out"]),
    "--lora_alpha alone": (f"{FINETUNE} --lora_alpha=2", nothing, ["--lora_alpha 2", "--lora_rank"]),
    "--base of a model": (f"{GENERATE} --base=tiny", nothing, ["--base models/tiny", "holds no adapters"]),
    "--base missing": (f"{GENERATE} --base=nothing", nothing, ["--base nothing", "no such model"]),
    "--lora_on wte": (f"{FINETUNE} --lora_rank=2 --lora_on=wte", nothing, ["--lora_on wte", "attn/c_attn"]),
    "adapters as safetensors": (
        f"{FINETUNE} --lora_rank=2 --output_name=a.safetensors",
        nothing,
        ["--output_name a.safetensors", ".h5"],
    ),
    "--freeze all": (
        f"{FINETUNE} --freeze=wte,wpe,ln_f,h0-2",
        nothing,
        ["--freeze wte,wpe,ln_f,h0-2", "nothing is left", "freeze less"],
    ),
    "--add_tokens of nothing": (f"{FINETUNE} --add_tokens=,", nothing, ["--add_tokens ''", "<user>"]),
    "--add_tokens of two lines": (f"{FINETUNE} --add_tokens=a\nb", nothing, ["--add_tokens 'a\\nb'", "one line"]),
    "--add_tokens by the name of a token": (
        f"{FINETUNE} --add_tokens=Ġthe",
        nothing,
        ["--add_tokens 'Ġthe'", "choose another"],
    ),
    "--add_tokens with adapters": (
        f"{FINETUNE} --add_tokens=<user> --lora_rank=2",
        nothing,
        ["--add_tokens <user>", "drop --lora_rank"],
    ),
    "--add_tokens frozen": (f"{FINETUNE} --add_tokens=<user> --freeze=wte", nothing, ["--add_tokens <user>", "freeze"]),
    "--freeze nothing": (f"{FINETUNE} --freeze=head", nothing, ["--freeze head", "use some of"]),
    "--freeze with adapters": (
        f"{FINETUNE} --freeze=wte --lora_rank=2",
        nothing,
        ["--freeze wte", "--lora_rank", "drop one"],
    ),
    "--memory much": (f"{FINETUNE} --memory=much", nothing, ["--memory much", "11GB", "auto"]),
    "--memory too little": (f"{FINETUNE} --memory=10MB", nothing, ["needs", "is available", "--model"]),
    "--devices 0": (f"{FINETUNE} --devices=0", nothing, ["--devices 0", "at least 1"]),
    "--warmup_steps -1": (f"{FINETUNE} --warmup_steps=-1", nothing, ["--warmup_steps -1", "0 or more"]),
    "a plan for 0 sequences": ("plan --model 124M --batch_size 0", nothing, ["--batch_size 0", "at least 1"]),
    "merging a missing file": ("merge no.h5 out.h5", nothing, ["no.h5", "no such checkpoint", "give"]),
    "--val_fraction 1": (f"{FINETUNE} --val_fraction=1", nothing, ["--val_fraction 1", "less than 1"]),
    "--seed -1": (f"{FINETUNE} --seed=-1", nothing, ["--seed -1", "0 or more"]),
    "--save_every -5": (f"{FINETUNE} --save_every=-5", nothing, ["--save_every -5", "0 or more"]),
    "unknown loader": (f"{FINETUNE} --data_loader=tweets", nothing, ["--data_loader", "tweets", "text"]),
    "unknown flag": (f"{FINETUNE} --lenght=32", nothing, ["--lenght", "--length", "--help"]),
    "no such model": (f"{FINETUNE} --model=125M", nothing, ["--model 125M", "no such model", "give 124M"]),
    "no such checkpoint": (f"{FINETUNE} --model_ckpt=no.ckpt", nothing, ["no.ckpt", "no such", "give"]),
    "a text as checkpoint": (f"{FINETUNE} --model_ckpt=story.txt", nothing, ["story.txt", "not a checkpoint", "give"]),
    "an empty folder as checkpoint": (
        f"{FINETUNE} --model_ckpt=empty",
        lambda: Path("empty").mkdir(),
        ["empty", "model.ckpt.index", "give"],
    ),
    "no such hparams": (f"{FINETUNE} --json_hparams=no.json", nothing, ["no.json", "check the path"]),
    "a folder as hparams": (f"{FINETUNE} --json_hparams=models", nothing, ["models", "directory", "check the path"]),
    "hparams that are no JSON": (
        FINETUNE,
        write("models/tiny/hparams.json", '{"n_vocab": 512,\n n_ctx}'),
        ["hparams.json:2", "not JSON", "again"],
    ),
    "hparams without n_head": (FINETUNE, edit(TINY / "hparams.json", n_head=None), ["hparams.json", "n_head", "give"]),
    "a text in hparams": (FINETUNE, edit(TINY / "hparams.json", n_ctx="64"), ["hparams.json", "n_ctx", "give"]),
    "n_head that does not divide": (
        FINETUNE,
        edit(TINY / "hparams.json", n_head=5),
        ["hparams.json", "n_head 5", "n_embd 48", "give"],
    ),
    "wider hparams": (FINETUNE, edit(TINY / "hparams.json", n_embd=96), ["model.ckpt", "wte", "[512, 48]", "give"]),
    "deeper hparams": (FINETUNE, edit(TINY / "hparams.json", n_layer=4), ["model.ckpt", "h3/", "missing", "give"]),
    "shallower hparams": (FINETUNE, edit(TINY / "hparams.json", n_layer=2), ["model.ckpt", "h2/", "not part", "give"]),
    "encoder of another model": (
        f"{FINETUNE} --json_encoder=e.json --vocab_bpe=v.bpe",
        write_another_vocabulary,
        ["e.json", "521", "512", "give"],
    ),
    "encoder and merges of two models": (
        f"{FINETUNE} --vocab_bpe=v.bpe",
        write_another_vocabulary,
        ["v.bpe", "encoder.json", "one vocabulary"],
    ),
    "an encoder that is not a table": (
        FINETUNE,
        write("models/tiny/encoder.json", "[1, 2]"),
        ["encoder.json", "not a table", "give"],
    ),
    "encoder without end of text": (
        FINETUNE,
        edit(TINY / "encoder.json", **{"<|endoftext|>": None}),
        ["encoder.json", "<|endoftext|>", "give"],
    ),
    "merges of three tokens": (
        FINETUNE,
        write("models/tiny/vocab.bpe", "#version: 0.2\nt h\nt h e\n"),
        ["vocab.bpe:3", "'t h e'", "give"],
    ),
    "unreadable merges": (
        f"{FINETUNE} --vocab_bpe=models/tiny/vocab.bpe",
        make_unreadable,
        ["vocab.bpe", "cannot be read", "check"],
    ),
    "no vocabulary": (FINETUNE, (TINY / "encoder.json").unlink, ["models/tiny", "--json_encoder", "give"]),
    "no hparams": (GENERATE, (TINY / "hparams.json").unlink, ["models/tiny", "--json_hparams", "give"]),
    "truncated TF1 data": (
        FINETUNE,
        truncate(TINY / "model.ckpt.data-00000-of-00001"),
        ["model.ckpt.data-00000-of-00001", "truncated", "again"],
    ),
    "damaged TF1 data": (
        GENERATE,
        flip_a_byte(TINY / "model.ckpt.data-00000-of-00001"),
        ["model.ckpt.data-00000-of-00001", "tensor", "damaged", "again"],
    ),
    "truncated TF1 index": (GENERATE, truncate(TINY / "model.ckpt.index"), ["model.ckpt.index", "not a", "again"]),
    "missing TF1 data": (
        GENERATE,
        (TINY / "model.ckpt.data-00000-of-00001").unlink,
        ["model.ckpt.data-00000-of-00001", "no such file", "again"],
    ),
    "truncated HDF5": (
        f"{GENERATE} --model_path=m.h5",
        save("m.h5", truncate(Path("m.h5"))),
        ["m.h5", "truncated", "again"],
    ),
    "HDF5 of another program": (f"{GENERATE} --model_path=m.h5", write_foreign_h5, ["m.h5", "another program", "give"]),
    "HDF5 with an extra tensor": (
        f"{GENERATE} --model_path=m.h5",
        save("m.h5", add_a_tensor),
        ["m.h5", "h9/more", "give"],
    ),
    "HDF5 and other hparams": (
        f"{GENERATE} --model_path=m.h5 --json_hparams=h.json",
        save("m.h5", write("h.json", '{"n_vocab": 512, "n_ctx": 64, "n_embd": 48, "n_head": 6, "n_layer": 3}')),
        ["m.h5", "n_head=4", "n_head=6", "--json_hparams"],
    ),
    "truncated safetensors": (
        f"{GENERATE} --model_path=hf",
        save("hf/model.safetensors", truncate(Path("hf/model.safetensors"))),
        ["hf/model.safetensors", "not a whole", "again"],
    ),
    "safetensors of another network": (
        f"{GENERATE} --model_path=hf",
        save("hf/model.safetensors", lambda: save_file({"fc.weight": np.zeros(3)}, "hf/model.safetensors")),
        ["hf/model.safetensors", "wte", "missing", "give"],
    ),
    "config.json of another model": (
        f"{GENERATE} --model_path=hf",
        save("hf/model.safetensors", edit(Path("hf/config.json"), model_type="bert")),
        ["hf/config.json", "model_type", "give"],
    ),
    "config.json of another activation": (
        f"{GENERATE} --model_path=hf",
        save("hf/model.safetensors", edit(Path("hf/config.json"), activation_function="relu")),
        ["hf/config.json", "relu", "gelu_new"],
    ),
    "unknown output format": (f"{FINETUNE} --output_name=m.pt", nothing, ["m.pt", ".h5", ".safetensors"]),
    "a file where output/ should be": (
        FINETUNE,
        write("output", "x"),
        ["output", "cannot be written", "--output"],
    ),
    "read-only output/": (
        FINETUNE,
        lambda: Path("output").symlink_to("/proc"),
        ["output", "cannot be", "--output"],
    ),
    "damaged state": (
        f"{FINETUNE} --output_name=m.h5 --resume",
        write_damaged_state,
        ["--resume", "state.h5", "leave"],
    ),
    "--top_p 0": (f"{GENERATE} --nucleus --top_p=0", nothing, ["--top_p 0", "more than 0"]),
    "--top_p 1.5": (f"{GENERATE} --nucleus --top_p=1.5", nothing, ["--top_p 1.5", "at most 1"]),
    "--temperature -1": (f"{GENERATE} --temperature=-1", nothing, ["--temperature -1", "0 or more"]),
    "--temperature nan": (f"{GENERATE} --temperature=nan", nothing, ["--temperature nan", "or more"]),
    "--top_k -1": (f"{GENERATE} --top_k=-1", nothing, ["--top_k -1", "0 or more"]),
    "--output_length 0": (f"{GENERATE} --output_length=0", nothing, ["--output_length 0", "at least 1"]),
    "--batch_size 0 samples": (f"{GENERATE} --batch_size=0", nothing, ["--batch_size 0", "at least 1"]),
    "a starter longer than the context": (
        f"{GENERATE} --starter={'xyz' * 30}",
        nothing,
        ["--starter", "90 tokens", "is 64", "shorten"],
    ),
    "no such model_path": (
        f"{GENERATE} --model_path=output/no.h5",
        nothing,
        ["--model_path output/no.h5", "no such model", "give"],
    ),
    "unknown size": ("download 117M", nothing, ["--size 117M", "124M"]),
    "no size": ("download", nothing, ["SIZE is required", "--help"]),
    "a file where models/ should be": (
        "download 124M --folder=models",
        replace_models_by_a_file,
        ["models/124M", "cannot be written", "choose another folder"],
    ),
    "an unknown engine": (f"{GENERATE} --engine=gpu", nothing, ["--engine", "gpu", "litert"]),
    "an unknown quantization": (f"{GENERATE} --quantize=int4", nothing, ["--quantize", "int4", "int8"]),
    "bfloat16 in LiteRT": (
        f"{GENERATE} --engine=litert --precision=bfloat16",
        nothing,
        ["--precision bfloat16", "--engine", "graph"],
    ),
    "two precisions": (
        f"{GENERATE} --precision=float32 --quantize=int8",
        nothing,
        ["--precision float32", "--quantize int8", "leave one out"],
    ),
    "int8 in the Keras graph": (
        f"{GENERATE} --engine=graph --quantize=int8",
        nothing,
        ["--quantize int8", "litert"],
    ),
    "an unknown value of --draft": (f"{GENERATE} --draft=perhaps", nothing, ["--draft", "perhaps", "off"]),
    "an empty stop text": (f"{GENERATE} --stop=", nothing, ["--stop", "give a text"]),
    "--min_length above --output_length": (f"{GENERATE} --min_length=900", nothing, ["--min_length 900", "0 to"]),
    "--n_samples 0": (f"{GENERATE} --n_samples=0", nothing, ["--n_samples 0", "at least 1"]),
    "--min_p 1": (f"{GENERATE} --min_p=1", nothing, ["--min_p 1.0", "less than 1"]),
    "--repetition_penalty 0": (
        f"{GENERATE} --repetition_penalty=0",
        nothing,
        ["--repetition_penalty 0.0", "at least 0.001, at most 1000"],
    ),
    "a missing file of prompts": (f"{PROMPTS} --prompts=none.txt", nothing, ["none.txt", "No such file", "check"]),
    "a file without prompts": (f"{PROMPTS} --prompts=p.txt", write("p.txt", "\n \n"), ["p.txt", "write one per line"]),
    "prompts that are not UTF-8": (
        f"{PROMPTS} --prompts=p.txt",
        lambda: Path("p.txt").write_bytes(b"caf\xe9") and None,
        ["p.txt", "not UTF-8", "byte 3"],
    ),
    "damaged settings that the output would keep": (
        "finetune --model=hf --data=story.txt --length=32 --epochs=1 --steps=1 --output=m.safetensors",
        save("hf/model.safetensors", write("hf/generation_config.json", "{")),
        ["hf/generation_config.json:1", "not JSON"],
    ),
    "a prompt of the file longer than the context": (
        f"{PROMPTS} --prompts=p.txt",
        write("p.txt", "short\n" + "long " * 70),
        ["p.txt:2", "n_ctx", "shorten"],
    ),
    "prompts and a starter": (f"{GENERATE} --prompts=p.txt --starter=Once", nothing, ["--prompts", "--starter"]),
    "an empty passage": (
        "chat models/tiny --passage=p.txt --output_length=9",
        write("p.txt", "\n"),
        ["--passage p.txt", "empty", "give the text"],
    ),
    "a missing passage": ("chat models/tiny --passage=none.txt", nothing, ["none.txt", "No such file"]),
    "an answer as long as the context": (
        "chat models/tiny --passage=story.txt --output_length=64",
        nothing,
        ["--output_length 64", "n_ctx 64", "lower it"],
    ),
    "an address that is not HTTP": ("download 124M --base_url=ftp://x", nothing, ["ftp://x", "https://"]),
}


def list_files(folder: Path) -> dict[str, int]:
    """Every file and when it was last changed, in ns."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_ends_in_one_line_with_exit_code_2_and_writes_nothing(
    name: str, workplace: Path, capfd: pytest.CaptureFixture
) -> None:
    line, act, words = CASES[name]
    act()
    before = list_files(workplace)
    capfd.readouterr()
    assert main(line.split(" ")) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    assert list_files(workplace) == before


def test_an_unknown_backend_is_an_error(
    workplace: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert main(GENERATE.split(" ")) == 2
    err = capfd.readouterr().err
    assert "KERAS_BACKEND=torch" in err and err.count("\n") == 1


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") == "jax", reason="JAX may have them")
@pytest.mark.parametrize("command", [FINETUNE, "evaluate --dataset_path=story.txt --model_path=models/tiny"])
def test_several_devices_on_tensorflow_are_an_error(
    command: str, workplace: Path, capfd: pytest.CaptureFixture
) -> None:
    assert main(f"{command} --devices=2".split(" ")) == 2
    err = capfd.readouterr().err
    assert "--devices 2" in err and "KERAS_BACKEND=jax" in err and err.count("\n") == 1
    assert not Path("output").exists()


def list_checked_flags() -> list[tuple[type, str, Flag]]:
    """The flags of every command that take a number or one of several choices."""
    names = [name for _, name, _ in pkgutil.iter_modules(commands.__path__)]
    modules = [importlib.import_module(f"gpt_tf2.commands.{name}") for name in names]
    classes = {value for module in modules for value in vars(module).values() if str(value).endswith("Settings'>")}
    assert len(classes) >= len(COMMANDS)
    return [
        (settings, name, flag)
        for settings in sorted(classes, key=str)
        for name, flag in flags_of(settings).items()
        if flag.choices or flag.kind in (int, float)
    ]


@pytest.mark.parametrize(("settings", "name", "flag"), list_checked_flags())
def test_every_number_and_every_choice_has_its_range_checked(settings: type, name: str, flag: Flag) -> None:
    required: dict[str, Any] = {
        field.name: (flags_of(settings)[field.name].choices or ["x"])[0]
        for field in dataclasses.fields(settings)
        if field.default is dataclasses.MISSING
    }
    for value in ["no such choice"] if flag.choices else [-1] if flag.kind is int else [-1.0, math.nan, math.inf]:
        with pytest.raises(InputError) as caught:
            settings(**{**required, name: value})
        assert caught.value.setting == name and caught.value.value is value
