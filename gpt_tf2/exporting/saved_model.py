"""A folder in TensorFlow's SavedModel format, for TensorFlow Serving and programs without this package."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.backend.choice import find_backend
from gpt_tf2.backend.starting import start_backend
from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.errors import InputError, to_line
from gpt_tf2.exporting.proof import LogitsOf
from gpt_tf2.storage.folders import new_folder

SIGNATURE = "serving_default"


def write(model: OpenedModel, output: Path, precision: str) -> None:
    """Writes the network's graph and weights into a new folder, and the vocabulary into its folder `assets`.

    The signature `serving_default` takes `ids`, int32 [batch, length], and returns `logits`, float32
    [batch, length, n_vocab].

    Raises InputError if Keras runs on another backend than TensorFlow, if the folder is there already, or if a file
    cannot be written.

    Example:
        >>> write(open_model("models/124M"), Path("124M-saved_model"), "float32")  # doctest: +SKIP
    """
    start_backend()
    if find_backend() != "tensorflow":
        raise InputError("needs Keras on TensorFlow: set KERAS_BACKEND=tensorflow", "format", "saved_model")
    import tensorflow as tf

    network, limit = model.load(), model.config.n_ctx

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "ids")], autograph=False)
    def serve(ids: Any) -> dict[str, Any]:
        # On a GPU TensorFlow would read zeros where the position embedding ends.
        fits = tf.debugging.assert_less_equal(tf.shape(ids)[1], limit, f"more tokens than the context, {limit}")
        with tf.control_dependencies([fits]):
            return {"logits": network(ids)}

    with new_folder(output) as folder:
        assets = folder / "assets"
        assets.mkdir()
        served = tf.Module()
        served.weights = [variable.value for variable in network.variables]
        served.vocabulary = []
        for name, content in model.tokenizer.list_files(for_transformers=True).items():
            (assets / name).write_bytes(content)
            served.vocabulary.append(tf.saved_model.Asset(str(assets / name)))
        try:
            tf.saved_model.save(served, str(folder), {SIGNATURE: serve})
        except tf.errors.OpError as error:
            reason = str(error).rpartition("; ")[2]  # after the operation and its temporary file
            raise OSError(to_line(reason)) from None


def read_logits(output: Path) -> LogitsOf:
    """Opens a folder in TensorFlow. None of our code runs there."""
    import tensorflow as tf

    served = tf.saved_model.load(str(output))

    def logits_of(ids: np.ndarray, steps: int = 0) -> Iterator[np.ndarray]:
        del steps  # the graph has no cache
        yield served.signatures[SIGNATURE](ids=tf.constant(ids[None], tf.int32))["logits"].numpy()[0]

    return logits_of
