"""OpenAI's format: a TensorFlow 1 checkpoint, `model.ckpt.index` and `model.ckpt.data-00000-of-00001`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.backend.starting import import_tensorflow_for_files
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.tf1_index import read_index
from gpt_tf2.config import GPT2Config
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write, write_text

INDEX = ".index"
DATA = ".data-00000-of-00001"


def is_prefix(path: Path) -> bool:
    """Whether a path is the prefix of a TF1 checkpoint."""
    return with_suffix(path, INDEX).is_file()


def with_suffix(prefix: Path, suffix: str) -> Path:
    """One of the files of a checkpoint, such as `model.ckpt.index`."""
    return prefix.with_name(prefix.name + suffix)


def open_checkpoint(prefix: Path) -> Checkpoint:
    """Opens a TF1 checkpoint; tensors lose the prefix `model/`, and matrices their leading dimension 1.

    TensorFlow is imported when the first tensor is read.

    Raises InputError if one of the two files is missing, truncated or damaged.
    """
    index, data = (with_suffix(prefix, suffix) for suffix in (INDEX, DATA))
    fix = "copy or download the checkpoint again"
    for path in (index, data):
        if not path.is_file():
            raise InputError(f"{path}: no such file: {fix}")
    entries = read_index(index, data)
    keys = {key.removeprefix("model/"): key for key in entries}
    if len(keys) < len(entries):
        raise InputError(f"{index}: a tensor with the prefix model/ and without: {fix}")
    shapes = {name: drop_width(entries[key].shape) for name, key in keys.items()}
    reader: Any = None

    def read(name: str) -> np.ndarray:
        nonlocal reader
        tf = import_tensorflow_for_files()
        if not entries[keys[name]].is_float:
            raise InputError(f"{index}: tensor {name} holds no floating-point numbers: {fix}")
        # TensorFlow turns some of its errors into Python's own, for example when the data ends too early.
        try:
            # Unlike `tf.train.load_checkpoint` it also reads a prefix that is the name of a folder as well.
            reader = reader or tf.compat.v1.train.NewCheckpointReader(str(prefix))
            array = reader.get_tensor(keys[name])
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
            damage = f"tensor {name} is truncated or damaged ({first_line(error)})"
            raise InputError(f"{data}: {damage}: {fix}") from None
        return array.astype("float32", copy=False).reshape(shapes[name])

    return Checkpoint(prefix, shapes, read)


def drop_width(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a matrix, which OpenAI stores as a convolution of width 1, [1, inputs, outputs]."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def write(prefix: Path, config: GPT2Config, tensors: Mapping[str, Any]) -> None:
    """Writes the tensors, the file `checkpoint`, which names them for TensorFlow, and `hparams.json`.

    Of the tensors' two files the index comes last: it is what makes them a checkpoint.

    Raises InputError if a file cannot be written.
    """
    tf = import_tensorflow_for_files()
    names = sorted(f"model/{name}" for name in tensors)  # the order of TensorFlow 1's saver
    index, data = (with_suffix(prefix, suffix) for suffix in (INDEX, DATA))
    with atomic_write(index) as temporary_index, atomic_write(data) as temporary_data, tf.device("CPU"):
        temporary = prefix.with_name(f".{prefix.name}.part")
        values = [tf.convert_to_tensor(tensors[name.removeprefix("model/")]) for name in names]
        values = [value[None] if name.endswith("/w") else value for name, value in zip(names, values, strict=True)]
        try:
            tf.raw_ops.SaveV2(
                prefix=str(temporary), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
            )
            with_suffix(temporary, DATA).replace(temporary_data)
            with_suffix(temporary, INDEX).replace(temporary_index)
        except tf.errors.OpError as error:
            raise OSError(first_line(error)) from None
        finally:
            for leftover in prefix.parent.glob(f"{temporary.name}.*"):
                leftover.unlink()
    write_text(prefix.with_name("checkpoint"), f'model_checkpoint_path: "{prefix.name}"\n')
    write_text(companion_folder(prefix) / "hparams.json", config.to_json())


def first_line(error: Exception) -> str:
    """The first line of TensorFlow's message, at most 120 characters."""
    return str(error).strip().split("\n")[0][:120]
