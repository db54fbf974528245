"""A folder as OpenAI released its models in, for programs of TensorFlow 1, such as gpt-2-simple."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.opened import OpenedModel, load_model
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
    network = load_model(output)

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterator[np.ndarray]:
        del steps  # the network has no cache of its own
        yield np.asarray(network(ids[None]))[0]

    return logits_of
