"""A folder as OpenAI released its models in, for programs of TensorFlow 1, such as gpt-2-simple."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt_tf2.backend.starting import import_tensorflow_for_files, start_backend
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.exporting.checkpoint_folder import write_folder
from gpt_tf2.exporting.proof import LogitsOf


def write(model: OpenedModel, output: Path, precision: str) -> None:
    """Writes `model.ckpt.*`, `hparams.json`, `encoder.json` and `vocab.bpe` into a new folder.

    A vocabulary that is not of OpenAI's form is written as `tokenizer.json`.

    Raises InputError if the folder is there already, or if a file cannot be written.

    Example:
        >>> write(open_model("book.h5"), Path("models/book"), "float32")  # doctest: +SKIP
    """
    write_folder(model, output, "model.ckpt")


def read_logits(output: Path) -> LogitsOf:
    """Reads a folder back with TensorFlow, but into our network: OpenAI's own code needs TensorFlow 1."""
    start_backend()
    from gpt_tf2.model import GPT2

    config = GPT2Config.from_json(output / "hparams.json")
    tensors, shapes = import_tensorflow_for_files().train.load_checkpoint(output / "model.ckpt"), tensor_shapes(config)
    network = GPT2(config, read=lambda name: tensors.get_tensor(f"model/{name}").reshape(shapes[name]))

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterator[np.ndarray]:
        del steps  # the network has no cache of its own
        yield np.asarray(network(ids[None]))[0]

    return logits_of
