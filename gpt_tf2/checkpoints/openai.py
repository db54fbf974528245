"""OpenAI's format: a TensorFlow 1 checkpoint, `model.ckpt.index` and `model.ckpt.data-00000-of-00001`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.backend.starting import quiet
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.errors import InputError
from gpt_tf2.storage.files import atomic_write, write_text

DATA = ".data-00000-of-00001"


def open_checkpoint(prefix: Path) -> Checkpoint:
    """Opens `PREFIX.index`; names lose their `model/`, matrices their leading 1."""
    with quiet():
        import tensorflow as tf

    # TensorFlow turns some of its errors, as that of reading beyond the end, into Python's own.
    read_errors = (tf.errors.OpError, ValueError, RuntimeError, IndexError)
    for suffix in (".index", DATA):
        if not prefix.with_name(prefix.name + suffix).is_file():
            raise InputError(f"{prefix}{suffix}: no such file: download the model again")
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        stored = reader.get_variable_to_shape_map()
    except read_errors as error:
        raise InputError(f"{prefix}.index: not a checkpoint ({one_line(error)}): download the model again") from None

    def read(name: str) -> np.ndarray:
        try:
            array = reader.get_tensor(f"model/{name}")
        except read_errors as error:
            where = f"{prefix}{DATA}: tensor {name}"
            raise InputError(f"{where} is truncated or damaged ({one_line(error)}): download the model again") from None
        return array.astype("float32", copy=False).reshape(shapes[name])

    shapes = {name.removeprefix("model/"): squeezed(shape) for name, shape in stored.items()}
    return Checkpoint(prefix, shapes, read)


def write(prefix: Path, tensors: Mapping[str, Any]) -> None:
    """Writes the two files, the index last, which makes them a checkpoint, and `checkpoint`, which names them."""
    with quiet():
        import tensorflow as tf

    names = sorted(f"model/{name}" for name in tensors)  # as TensorFlow 1's saver orders them in the file
    index, data = (prefix.with_name(prefix.name + suffix) for suffix in (".index", DATA))
    with atomic_write(index) as temporary_index, atomic_write(data) as temporary_data:
        temporary = prefix.with_name(f".{prefix.name}.part")
        values = [tf.convert_to_tensor(tensors[name.removeprefix("model/")]) for name in names]
        values = [value[None] if name.endswith("/w") else value for name, value in zip(names, values, strict=True)]
        try:
            tf.raw_ops.SaveV2(
                prefix=str(temporary), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
            )
            Path(f"{temporary}{DATA}").replace(temporary_data)
            Path(f"{temporary}.index").replace(temporary_index)
        except tf.errors.OpError as error:
            raise OSError(one_line(error)) from None
        finally:
            for left in prefix.parent.glob(f"{temporary.name}.*"):
                left.unlink()
    write_text(prefix.with_name("checkpoint"), f'model_checkpoint_path: "{prefix.name}"\n')


def squeezed(shape: list[int]) -> tuple[int, ...]:
    """OpenAI's matrices are convolutions of width 1, [1, inputs, outputs]."""
    return tuple(shape[1:]) if len(shape) == 3 and shape[0] == 1 else tuple(shape)


def one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120]
