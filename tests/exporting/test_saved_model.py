"""TensorFlow's SavedModel, in TensorFlow by itself."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.exporting import saved_model
from helpers.exporting import run
from helpers.workplace import OPENAI_TINY, list_names

on_jax = os.environ.get("KERAS_BACKEND") == "jax"
needs_tensorflow = pytest.mark.skipif(on_jax, reason="Keras runs on JAX, which writes no SavedModel")

# Opens a folder with TensorFlow's two loaders; the older one is what TensorFlow Serving does. No module is ours.
ELSEWHERE = """
import sys
sys.modules["gpt_tf2"] = None  # as if it were not installed
import numpy as np
import tensorflow as tf

folder, tokens, output = sys.argv[1:]
tokens = np.load(tokens)
serve = tf.saved_model.load(folder).signatures["serving_default"]
new = serve(ids=tf.constant(tokens))["logits"].numpy()
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    signature = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def["serving_default"]
    old = session.run(signature.outputs["logits"].name, {signature.inputs["ids"].name: tokens})
np.savez(output, new=new, old=old)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "tiny-saved_model"
    saved_model.write(open_model(OPENAI_TINY), folder, "float32")
    return folder


@needs_tensorflow
def test_tensorflow_computes_what_openais_graph_does_and_finds_the_vocabulary(folder: Path) -> None:
    import tensorflow as tf

    expected = np.load(OPENAI_TINY / "expected.npz")
    logits = run(saved_model.read_logits(folder), expected["tokens"][0], steps=5)
    np.testing.assert_allclose(logits, expected["logits"][0], atol=1e-4)
    loaded = tf.saved_model.load(str(folder))
    files = {Path(asset.asset_path.numpy().decode()) for asset in loaded.vocabulary}
    contents = open_model(OPENAI_TINY).tokenizer.list_files(for_transformers=True)
    assert files == {folder / "assets" / name for name in contents} and "tokenizer.json" in contents
    assert {file.name: file.read_bytes() for file in files} == contents
    assert list_names(folder.parent) == [folder.name]
    with pytest.raises(tf.errors.InvalidArgumentError, match="more tokens than the context, 64"):
        loaded.signatures["serving_default"](ids=tf.zeros([1, 65], tf.int32))
    with pytest.raises(InputError, match="saved_model: is there already"):
        saved_model.write(open_model(OPENAI_TINY), folder, "float32")


@needs_tensorflow
def test_a_disk_that_is_too_small_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # the weights have more bytes
    try:
        with pytest.raises(
            InputError, match=r"tiny-saved_model: cannot be written \(File too large.*\): free space or choose"
        ) as error:
            saved_model.write(open_model(OPENAI_TINY), tmp_path / "tiny-saved_model", "float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value) and list_names(tmp_path) == []


@needs_tensorflow
@pytest.mark.slow
def test_a_process_without_this_package_runs_a_batch(folder: Path, tmp_path: Path) -> None:
    expected = np.load(OPENAI_TINY / "expected.npz")
    tokens = np.concatenate([expected["tokens"], expected["tokens"][:, ::-1]]).astype("int32")
    np.save(tmp_path / "tokens.npy", tokens)
    files = [folder, tmp_path / "tokens.npy", tmp_path / "logits.npz"]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *files], cwd=tmp_path, check=True, timeout=300)
    logits = np.load(tmp_path / "logits.npz")
    for name in ("new", "old"):
        assert logits[name].dtype == np.float32 and len(logits[name]) == len(tokens)
        np.testing.assert_allclose(logits[name][: len(expected["logits"])], expected["logits"], atol=1e-4)


@pytest.mark.skipif(not on_jax, reason="Keras runs on TensorFlow")
def test_on_jax_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs Keras on TensorFlow: set KERAS_BACKEND=tensorflow"):
        saved_model.write(open_model(OPENAI_TINY), tmp_path / "none", "float32")
    assert list_names(tmp_path) == []
