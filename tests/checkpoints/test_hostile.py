"""Checkpoints that are damaged, hostile or of another kind: a true line, before anything is allocated."""

import dataclasses
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt_tf2 import GPT2Config, InputError
from gpt_tf2.checkpoints import adapters, hdf5, huggingface
from gpt_tf2.checkpoints.formats import list_sources, locate, open_checkpoint, read_config
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.checkpoints.tf1_index import read_index
from gpt_tf2.config import adapter_shapes, tensor_shapes
from gpt_tf2.training.state import History, load_state, read_run, save_state
from helpers.fuzzing import CONFIG, RUN, describe_base, make_trainer, random_tensors, sign_blocks
from helpers.workplace import OPENAI_TINY

TENSORS = random_tensors(tensor_shapes(CONFIG))
FACTORS = random_tensors(adapter_shapes(CONFIG, 2))
HEAD = "lm_head.weight"


def write_index(folder: Path, content: bytes) -> tuple[Path, Path]:
    """The index of a checkpoint whose data file has 100 bytes."""
    index, data = folder / "model.ckpt.index", folder / "model.ckpt.data-00000-of-00001"
    index.write_bytes(content)
    data.write_bytes(bytes(100))
    return index, data


def varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(records: list[tuple[bytes, bytes]]) -> bytes:
    content = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in records)
    return content + struct.pack("<II", 0, 1)


def make_index(*entries: tuple[str, bytes], header: bytes = field(1, 1)) -> bytes:
    """An index of entries, as TensorFlow writes one."""
    data = block([(b"", header), *((name.encode(), entry) for name, entry in entries)])
    unused, handle = block([]), varint(0) + varint(len(data))
    index = block([(b"\xff", handle)])
    after = len(data) + 5, len(data) + 5 + len(unused) + 5
    footer = b"".join(map(varint, (after[0], len(unused), after[1], len(index)))).ljust(40, b"\0")
    content = data + bytes(5) + unused + bytes(5) + index + bytes(5) + footer
    return sign_blocks(content + bytes.fromhex("57fb808b247547db"))


def entry(*dimensions: int, kind: int = 1, offset: int = 0, size: int | None = None, more: bytes = b"") -> bytes:
    shape = b"".join(field(2, field(1, dimension)) for dimension in dimensions)
    size = 4 * int(np.prod(dimensions, dtype=object)) if size is None else size
    return field(1, kind) + field(2, shape) + field(4, offset) + field(5, size) + more


def test_the_index_of_openais_graph_is_read() -> None:
    index = read_index(OPENAI_TINY / "model.ckpt.index", OPENAI_TINY / "model.ckpt.data-00000-of-00001")
    assert len(index) == 40 and index["model/h0/mlp/c_fc/w"].shape == (1, 48, 192)


def test_a_made_index_is_read_as_tensorflow_reads_it(tmp_path: Path) -> None:
    import tensorflow as tf

    index, data = write_index(tmp_path, make_index(("a", entry(2, 3)), ("b", entry(kind=9, offset=24, size=8))))
    assert {name: (e.shape, e.dtype) for name, e in read_index(index, data).items()} == {
        "a": ((2, 3), "float32"),
        "b": ((), ""),
    }
    assert tf.train.load_checkpoint(str(tmp_path / "model.ckpt")).get_variable_to_shape_map() == {"a": [2, 3], "b": []}


HOSTILE_INDEXES = {
    "a negative dimension": (make_index(("a", entry(2**64 - 1, size=4))), "impossible shape"),
    "a huge dimension": (make_index(("a", entry(2**62, 2**62))), "a number without an end|impossible shape"),
    "a huge dimension beside 0": (make_index(("a", entry(2**62, 2**62, 0))), "impossible shape"),
    "many dimensions": (make_index(("a", entry(*[1] * 300))), "impossible shape"),
    "a size that is not the shape's": (make_index(("a", entry(2, 3, size=20))), "another size"),
    "outside the data": (make_index(("a", entry(2, 3, offset=90))), "data-00000-of-00001: truncated"),
    "more than the data": (make_index(("a", entry(20)), ("b", entry(20))), "data-00000-of-00001: truncated"),
    "40 GB": (make_index(("a", entry(10**10))), "data-00000-of-00001: truncated"),
    "a type without a name": (make_index(("a", entry(2, kind=99))), "another size"),
    "another data file": (make_index(("a", entry(2, more=field(3, 1)))), "another size"),
    "slices": (make_index(("a", entry(2, more=field(7, field(1, b""))))), "stored in parts"),
    "an unknown field": (make_index(("a", entry(2, more=field(12, 3)))), "an unknown field"),
    "a shape twice": (make_index(("a", entry(2, more=field(2, b"")))), "two shapes"),
    "an unknown rank": (make_index(("a", field(1, 1) + field(2, field(3, 1)) + field(5, 4))), "impossible shape"),
    "a number as shape": (make_index(("a", field(1, 1) + field(2, 3) + field(5, 4))), "a number in the place"),
    "a name of 2,000 bytes": (make_index(("a" * 2000, entry(2))), "outside its block"),
    "two data files": (make_index(header=field(1, 2)), "more than one data file"),
    "big-endian": (make_index(header=field(1, 1) + field(2, 1)), "another byte order"),
    "names out of order": (make_index(("b", entry(1)), ("a", entry(1))), "out of order"),
    "a name twice": (make_index(("a", entry(1)), ("a", entry(1))), "out of order"),
    "empty": (b"", "its end is missing"),
    "nothing but its end": (bytes.fromhex("57fb808b247547db"), "its end is missing"),
}


@pytest.mark.parametrize("name", HOSTILE_INDEXES)
def test_a_hostile_index_is_refused_before_tensorflow_sees_it(tmp_path: Path, name: str) -> None:
    content, words = HOSTILE_INDEXES[name]
    index, data = write_index(tmp_path, content)
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}.*({words}).*: copy or download"):
        read_index(index, data)


def test_a_restart_in_the_middle_of_a_record_is_refused(tmp_path: Path) -> None:
    content = make_index(("a", entry(2, 3)))
    place = content.index(struct.pack("<II", 0, 1))
    moved = content[:place] + struct.pack("<II", 3, 1) + content[place + 8 :]
    with pytest.raises(InputError, match="wrong place to begin"):
        read_index(*write_index(tmp_path, sign_blocks(moved)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_layer": 10**9}, "n_layer is more than 10,000"),
        ({"n_vocab": 10**10}, "n_vocab is more than 2,147,483,647"),
        ({"n_embd": 10**4000}, "n_embd is more than"),
        ({"n_vocab": 10**9}, "tensor wte has shape"),
        ({"n_layer": 10_000}, "tensor h1/ln_1/g is missing"),
    ],
)
def test_hyper_parameters_larger_than_the_checkpoint_are_refused(
    tmp_path: Path, values: dict[str, int], words: str
) -> None:
    path = write_safetensors(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "hparams.json").write_text(json.dumps(json.loads(CONFIG.to_json()) | values))
    with pytest.raises(InputError, match=words):
        open_checkpoint(path).check(GPT2Config.from_json(tmp_path / "hparams.json"))


def write_adapters(folder: Path, **changes: Any) -> Path:
    """A model and its adapters, some of whose attributes or factors are changed; None leaves one out."""
    hdf5.write(folder / "base.h5", CONFIG, TENSORS)
    adapters.write(folder / "a.h5", CONFIG, describe_base(hdf5.open_checkpoint(folder / "base.h5")), FACTORS)
    import h5py

    with h5py.File(folder / "a.h5", "a") as file:
        for name, value in changes.items():
            place = file if name.endswith(("lora_a", "lora_b", "w")) else file.attrs
            if name in place:
                del place[name]
            if value is not None:
                place[name] = value
    return folder / "a.h5"


FACTOR = "h0/attn/c_attn/lora_a"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_digests": np.zeros(3)}, "no attribute base_digest"),
        ({"base_digests": None}, "no attribute base_digest"),
        ({"base_digests": None, "base_digest": np.zeros(3)}, "no attribute base_digest"),
        ({"base_digests": None, "base_digest": "0"}, "made for another model"),
        ({"base_digests": "{"}, "not JSON"),
        ({"base_digests": "[1]"}, "base_digests is damaged"),
        ({"base_digests": '{"wte": 3}'}, "base_digests is damaged"),
        ({"hparams": None}, "no attribute hparams"),
        ({"hparams": "[1]"}, "not a JSON object"),
        ({FACTOR: None}, "h0/attn/c_attn/lora_b does not fit"),
        ({FACTOR: np.zeros((4, 3), "float32")}, "lora_b does not fit"),
        ({FACTOR: np.zeros((5, 2), "float32")}, "lora_a does not fit"),
        ({FACTOR: np.zeros(4, "float32")}, "does not fit"),
        ({"h9/attn/c_attn/lora_a": np.zeros((4, 2), "float32")}, "h9/attn/c_attn/lora_a does not fit"),
        ({"h0/attn/c_attn/w": np.zeros((4, 12), "float32")}, "h0/attn/c_attn/w does not fit"),
    ],
)
def test_damaged_adapters_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"a.h5: .*{words}"):
        open_checkpoint(write_adapters(tmp_path, **changes))


@pytest.mark.parametrize("through", ["a.h5", "other.h5"])
def test_adapters_of_themselves_are_refused(tmp_path: Path, through: str) -> None:
    path = write_adapters(tmp_path, base="no.h5", base_from_here=through)
    if through != "a.h5":
        shutil.copy(path, tmp_path / through)
        write_adapters(tmp_path, base=str(tmp_path / through), base_from_here=None)
    for act in (open_checkpoint, list_sources):
        with pytest.raises(InputError, match="adapters of themselves"):
            act(path)


def test_adapters_whose_base_is_gone_say_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.h5 holds adapters of x/no.h5, .* no such checkpoint: put it there"):
        open_checkpoint(write_adapters(tmp_path, base="x/no.h5", base_from_here="no.h5"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", "[]"),
        ("run", "{"),
        ("run", np.zeros(2)),
        ("progress", "{}"),
        ("progress", '{"updates": "x", "scale": 1, "held": 1}'),
        ("model/wte", np.zeros((9, 4), "float32")),
        ("model/wte", None),
        ("optimizer/wpe/1", None),
        ("losses", np.zeros((2, 2))),
        ("losses", None),
        ("validation", np.zeros(3)),
    ],
)
def test_a_damaged_state_is_refused_before_the_trainer_changes(tmp_path: Path, name: str, value: Any) -> None:
    import h5py

    path = tmp_path / "state.h5"
    save_state(path, make_trainer(), History([1.0, 2.0], [(1, 2.0)]), RUN)
    assert load_state(path, make_trainer(), RUN) == History([1.0, 2.0], [(1, 2.0)])
    with h5py.File(path, "a") as file:
        place = file.attrs if name in ("run", "progress") else file
        del place[name]
        if value is not None:
            place[name] = value
    trainer = make_trainer()
    trainer.trained["wpe"].assign = None  # nothing is assigned
    with pytest.raises(InputError, match=r"state.h5.*: leave resume out to start again$"):
        read_run(path)
        load_state(path, trainer, RUN)


def write_safetensors(folder: Path, **changes: np.ndarray | None) -> Path:
    """A model in Hugging Face's format with other tensors."""
    path = folder / "model.safetensors"
    huggingface.write(path, CONFIG, TENSORS)
    tensors = load_file(path) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def test_an_output_matrix_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path, **{HEAD: TENSORS["wte"][:-1]})
    with pytest.raises(InputError, match=r"model.safetensors: tensor lm_head has shape \[7, 4\]"):
        open_checkpoint(path).check(dataclasses.replace(CONFIG, tied=False))


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", 10**9) + b"{}")
    with pytest.raises(InputError, match="a header of 1,000,000,000 bytes"):
        open_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"transformer.wpe.weight": np.zeros((4, 4), ml_dtypes.float8_e4m3fn)},
            "wpe.weight is F8_E4M3: save the model",
        ),
        ({"transformer.wpe.weight": np.zeros((4, 4), "int32")}, "wpe.weight is I32"),
        ({"wpe.weight": np.zeros((4, 4), "float32")}, "are the same one"),
    ],
)
def test_other_tensors_in_safetensors_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_checkpoint(write_safetensors(tmp_path, **tensors))


@pytest.mark.parametrize(
    ("names", "given", "words"),
    [
        (["model-00001-of-00003.safetensors"], "model-00001-of-00003.safetensors", "one of several files"),
        (
            ["pytorch_model-00001-of-00003.bin"],
            "pytorch_model-00001-of-00003.bin",
            "or .*/pytorch_model.bin.index.json",
        ),
        (["notes.txt"], "", "neither model.safetensors nor model.ckpt.index"),
        (["notes.txt"], "notes.txt", "not a checkpoint"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, names: list[str], given: str, words: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(InputError, match=f"{words}.*give|give.*{words}"):
        locate(tmp_path / given)


@pytest.mark.parametrize("n_vocab", [511, 514])
def test_a_vocabulary_of_another_size_is_named(tmp_path: Path, n_vocab: int) -> None:
    config = GPT2Config(n_vocab=n_vocab, n_ctx=4, n_embd=4, n_head=2, n_layer=1)
    huggingface.write(tmp_path / "model.safetensors", config, random_tensors(tensor_shapes(config)))
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(OPENAI_TINY / name, tmp_path)
    if n_vocab < 512:
        with pytest.raises(
            InputError, match=r"encoder.json: its highest id is 511, but the model has 511 tokens: give"
        ):
            open_model(tmp_path)
    else:  # rows without a token
        model = open_model(tmp_path)
        assert model.tokenizer.undrawn(n_vocab).tolist() == [512, 513]
        assert model.remark.endswith("encoder.json: no token for 2 of the model's 514 ids: these are never drawn")


def test_an_optimizers_tensors_are_named(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "m.h5", CONFIG, TENSORS | {"global_step": TENSORS["wte"]})
    with pytest.raises(InputError, match="global_step is not part of this GPT-2: save its weights alone"):
        open_checkpoint(tmp_path / "m.h5").check(read_config(tmp_path / "m.h5") or CONFIG)
