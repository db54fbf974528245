"""A `.keras` file, for programs of Keras in which `gpt_tf2` is installed, on any of its backends."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.exporting.proof import LogitsOf


def write(model: OpenedModel, output: Path, precision: str) -> None:
    """Writes the network to one file, without its vocabulary.

    Raises OSError if the file cannot be written.

    Example:
        >>> write(open_model("models/124M"), Path("124M.keras"), "float32")  # doctest: +SKIP
    """
    model.load().save(output)


def read_logits(output: Path) -> LogitsOf:
    """Opens a file in Keras."""
    import keras

    import gpt_tf2.model  # noqa: F401 - so that Keras knows the class

    network = keras.models.load_model(output)

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterator[np.ndarray]:
        del steps  # the network has no cache of its own
        yield np.asarray(network(ids[None]))[0]

    return logits_of
