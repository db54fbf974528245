"""Models as other programs write them: transformers' TF classes, the scripts of 2019, gpt-2-simple."""

import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from gpt_tf2.config import GPT2Config

Tensors = Mapping[str, np.ndarray]
TF_KINDS = {"w": "weight", "b": "bias", "g": "gamma"}


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


def write_tf_model(path: Path, tensors: Tensors) -> None:
    """`tf_model.h5`, as `TFGPT2LMHeadModel.save_pretrained` laid it out."""
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
        variables[f"tfgpt2lm_head_model/transformer/{inner}:0"] = value
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
