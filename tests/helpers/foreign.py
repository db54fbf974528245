"""Models as other programs write them: transformers, its TF classes, the scripts of 2019, gpt-2-simple."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpt_tf2.checkpoints.huggingface import CONFIG_NAMES, transformers_name
from gpt_tf2.config import GPT2Config

Tensors = Mapping[str, np.ndarray]
TF_KINDS = {"w": "weight", "b": "bias", "g": "gamma"}


def write_config(folder: Path, config: GPT2Config, **changes: Any) -> None:
    """transformers' config.json. A change to None takes a key away."""
    values = {"model_type": "gpt2"} | {keys[0]: getattr(config, name) for name, keys in CONFIG_NAMES.items()}
    values = {key: value for key, value in (values | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))


def name_tensors(tensors: Tensors, prefix: str = "transformer.") -> dict[str, np.ndarray]:
    """Tensors by transformers' names, but for another prefix."""
    return {prefix + transformers_name(n).removeprefix("transformer."): value for n, value in tensors.items()}


def write_shards(folder: Path, config: GPT2Config, tensors: Tensors) -> None:
    """Three files and their index, as `save_pretrained(max_shard_size=…)` writes them."""
    write_config(folder, config)
    named, weight_map = name_tensors(tensors), {}
    for number in (1, 2, 3):
        file = f"model-{number:05}-of-00003.safetensors"
        part = {key: named[key] for key in list(named)[number - 1 :: 3]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_pickled(
    folder: Path, config: GPT2Config, tensors: Tensors, dtype: str = "float32", old: bool = False
) -> None:
    """`pytorch_model.bin`, with the output matrix. old: in the format of before torch 1.6, which has no mapping."""
    torch = pytest.importorskip("torch")
    write_config(folder, config)
    state = {key: torch.tensor(value).to(getattr(torch, dtype)) for key, value in name_tensors(tensors).items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)


def write_variables(group: h5py.Group, variables: Mapping[str, np.ndarray]) -> None:
    """A layer of a Keras 2 file: its variables and the list of their names."""
    group.attrs["weight_names"] = np.array([name.encode() for name in variables])
    for name, value in variables.items():
        group.create_dataset(name, value.shape, value.dtype)[()] = value


def write_layers(group: h5py.Group, layers: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """All layers of a Keras 2 file."""
    group.attrs["layer_names"] = np.array([name.encode() for name in layers])
    group.attrs["backend"], group.attrs["keras_version"] = b"tensorflow", b"2.2.4-tf"
    for name, variables in layers.items():
        write_variables(group.create_group(name), variables)


def name_tf_variables(tensors: Tensors) -> dict[str, np.ndarray]:
    """Tensors by the names that transformers' TF classes give them."""
    variables = {}
    for name, value in tensors.items():
        if name in ("wte", "wpe"):
            inner = f"{name}/{'weight' if name == 'wte' else 'embeddings'}"
        else:
            layer, _, letter = name.rpartition("/")
            kind = "beta" if "ln_" in layer and letter == "b" else TF_KINDS[letter]
            block, _, rest = layer.partition("/")
            inner = f"h_._{block[1:]}/{rest}/{kind}" if rest else f"{layer}/{kind}"
            value = value[None] if kind == "bias" else value
        variables[f"transformer/{inner}:0"] = value
    return variables


def write_tf_model(path: Path, tensors: Tensors) -> None:
    """`tf_model.h5`, as `TFGPT2LMHeadModel.save_pretrained` laid it out."""
    variables = {f"tfgpt2lm_head_model/{name}": value for name, value in name_tf_variables(tensors).items()}
    with h5py.File(path, "w") as file:
        write_layers(file, {"transformer": variables})


def write_model_of_2019(path: Path, config: GPT2Config, tensors: Tensors) -> None:
    """The `.h5` that `finetune.py` of 2019 saved, with Adam's variables."""
    layers: dict[str, dict[str, np.ndarray]] = {"Input": {}}

    def add(layer: str, separator: str = "", **variables: np.ndarray) -> None:
        before = f"{layer}/{layer}_" if separator else f"{layer}/"
        layers[layer] = {f"{before}{name}:0": value for name, value in variables.items()}

    add("Embed-Token", embeddings=tensors["wte"])
    add("Embed-Token-Pos", embeddings=tensors["wpe"])
    for i in range(config.n_layer):
        block = {name.removeprefix(f"h{i}/"): x for name, x in tensors.items() if name.startswith(f"h{i}/")}
        attention, mlp = f"Encode-{i}-MultiHeadAtt", f"Encode-{i}-FeedForward"
        parts = {
            f"{kind}{part}": values
            for kind in "Wb"
            for part, values in zip("qkv", np.split(block[f"attn/c_attn/{kind.lower()}"], 3, axis=-1), strict=True)
        }
        add(f"{attention}-Norm", gamma=block["ln_1/g"], beta=block["ln_1/b"])
        add(attention, "_", **parts, Wo=block["attn/c_proj/w"], bo=block["attn/c_proj/b"])
        add(f"{mlp}-Norm", gamma=block["ln_2/g"], beta=block["ln_2/b"])
        names = {"W1": "c_fc/w", "b1": "c_fc/b", "W2": "c_proj/w", "b2": "c_proj/b"}
        add(mlp, "_", **{name: block[f"mlp/{ours}"] for name, ours in names.items()})
    add("Norm", gamma=tensors["ln_f/g"], beta=tensors["ln_f/b"])
    layers["Output"] = {}
    settings = [{"class_name": "Input", "config": {"name": "Input"}, "name": "Input"}]
    for i in range(config.n_layer):
        name = f"Encode-{i}-MultiHeadAtt"
        settings.append(
            {"class_name": "MultiHeadAttention", "config": {"name": name, "head_num": config.n_head}, "name": name}
        )
    adam = {"training/Adam/iter:0": np.array(7, "int64")}
    adam |= {f"training/Adam/{name[:-2]}/m:0": value for layer in layers.values() for name, value in layer.items()}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": {"layers": settings}}).encode()
        file.attrs["training_config"] = json.dumps({"optimizer_config": {"class_name": "Adam"}}).encode()
        write_layers(file.create_group("model_weights"), layers)
        write_variables(file.create_group("optimizer_weights"), adam)


def write_run_of_gpt_2_simple(prefix: Path, config: GPT2Config, tensors: Tensors, latest: str) -> None:
    """A checkpoint in a run's folder, with Adam's tensors; the file `checkpoint` names `latest`."""
    import tensorflow as tf

    prefix.parent.mkdir(parents=True, exist_ok=True)
    stored = {f"model/{name}": value[None] if name.endswith("/w") else value for name, value in tensors.items()}
    stored |= {f"{name}/{slot}": value * 0 for name, value in stored.items() for slot in ("Adam", "Adam_1")}
    stored |= {"beta1_power": np.float32(0.9), "beta2_power": np.float32(0.999), "global_step": np.int64(1000)}
    names = sorted(stored)
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=[stored[n] for n in names]
    )
    (prefix.parent / "checkpoint").write_text(
        f'model_checkpoint_path: "{latest}"\nall_model_checkpoint_paths: "{latest}"\n'
    )
    (prefix.parent / "counter").write_text("1000\n")
    (prefix.parent / "hparams.json").write_text(config.to_json())
