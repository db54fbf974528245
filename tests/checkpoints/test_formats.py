"""The three formats: bit-identical round trips, foreign writers and readers, memory, atomic writing."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import GPT2, GPT2Config, InputError, Tokenizer, load_model, save_model
from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.config import tensor_shapes
from helpers.workplace import OPENAI_TINY, ROOT, list_names

SMALL = GPT2Config(n_vocab=512, n_ctx=32, n_embd=24, n_head=3, n_layer=2)
TOKENS = np.arange(32, dtype="int32")[None]


def tensors(model: GPT2) -> dict[str, np.ndarray]:
    return {name: np.asarray(variable) for name, variable in model.tensors().items()}


def equal(one: GPT2, other: GPT2) -> bool:
    a, b = tensors(one), tensors(other)
    return one.config == other.config and list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_every_format_keeps_every_bit(tmp_path: Path) -> None:
    model = load_model(OPENAI_TINY / "model.ckpt")
    for path in ("a/model.ckpt", "b.h5", "c/model.safetensors", "d.ckpt", "e.safetensors", "f"):
        save_model(model, tmp_path / path)
        read = load_model(tmp_path / path)
        assert equal(model, read), path
        model = read
    assert (tmp_path / "f" / "model.ckpt.index").is_file()
    assert not list(tmp_path.rglob(".*")), "temporary files are left"
    original, last = (folder / "model.ckpt.data-00000-of-00001" for folder in (OPENAI_TINY, tmp_path / "f"))
    assert original.read_bytes() == last.read_bytes()


def test_tf1s_saver_reads_and_writes_our_checkpoints(tmp_path: Path) -> None:
    import tensorflow.compat.v1 as tf1

    expected = tensors(GPT2(SMALL, seed=5))
    with tf1.Graph().as_default(), tf1.Session() as session:
        for name, value in expected.items():
            tf1.get_variable(f"model/{name}", initializer=value[None] if name.endswith("/w") else value)
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    (tmp_path / "hparams.json").write_text(SMALL.to_json())
    model = load_model(tmp_path)
    assert all(np.array_equal(value, expected[name]) for name, value in tensors(model).items())

    save_model(model, tmp_path / "again.ckpt")
    with tf1.Graph().as_default(), tf1.Session() as session:
        variables = {
            name: tf1.get_variable(f"model/{name}", shape=value[None].shape if name.endswith("/w") else value.shape)
            for name, value in expected.items()
        }
        tf1.train.Saver().restore(session, str(tmp_path / "again.ckpt"))
        read = session.run(variables)
    assert all(np.array_equal(np.reshape(read[name], value.shape), value) for name, value in expected.items())


def test_transformers_and_we_open_each_others_folders(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = load_model(OPENAI_TINY)
    tokenizer = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    save_model(model, tmp_path / "ours" / "model.safetensors", tokenizer)
    vocabulary = ["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    assert list_names(tmp_path / "ours") == sorted(
        ["config.json", "generation_config.json", "model.safetensors", *vocabulary]
    )
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    expected = theirs(torch.tensor(TOKENS, dtype=torch.long)).logits.detach().numpy()
    assert np.abs(np.asarray(model(TOKENS)) - expected).max() <= 1e-5 * np.abs(expected).max()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert words("She picked up the sword").input_ids == tokenizer.encode("She picked up the sword")

    theirs.save_pretrained(tmp_path / "theirs")
    assert equal(model, load_model(tmp_path / "theirs"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_without_a_prefix_and_with_masks_is_read_as_on_the_hub(tmp_path: Path, dtype: str) -> None:
    from safetensors.numpy import save_file

    from gpt_tf2.checkpoints.huggingface import transformers_name

    model = GPT2(SMALL, seed=2)
    save_model(model, tmp_path / "model.safetensors")
    halves = {transformers_name(n).removeprefix("transformer."): t.astype(dtype) for n, t in tensors(model).items()}
    masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 32, 32), "float32")) for i in range(SMALL.n_layer)}
    save_file({**halves, **masks}, tmp_path / "model.safetensors")
    read = tensors(load_model(tmp_path))
    assert all(np.array_equal(t.astype(dtype).astype("float32"), read[n]) for n, t in tensors(model).items())


def test_an_h5_file_carries_its_hyper_parameters(tmp_path: Path) -> None:
    save_model(GPT2(SMALL), tmp_path / "m.h5")
    assert list_names(tmp_path) == ["m.h5"]
    assert open_checkpoint(tmp_path / "m.h5").config == SMALL


@contextlib.contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Lets writes beyond a file's first bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["m.h5", "m.safetensors", "m.ckpt"])
def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, name: str) -> None:
    model = GPT2(SMALL, seed=1)
    save_model(model, tmp_path / name)
    before = list_names(tmp_path)
    with limited_file_size(20_000), pytest.raises(InputError, match="cannot be written") as caught:
        save_model(GPT2(SMALL, seed=9), tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert equal(load_model(tmp_path / name), model)
    assert list_names(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "model.ckpt",
        pytest.param("m.h5", marks=pytest.mark.slow),
        pytest.param("model.safetensors", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_loading_needs_little_more_memory_than_the_weights(tmp_path: Path, name: str) -> None:
    """With 40 million parameters, so that the interpreter's own memory does not blur the figure."""
    config = GPT2Config(n_vocab=20000, n_ctx=64, n_embd=640, n_head=10, n_layer=6)
    zeros = {name: np.zeros(shape, "float32") for name, shape in tensor_shapes(config).items()}
    save_model(GPT2(config, read=zeros.pop), tmp_path / name)
    program = f"""
import math
from pathlib import Path
from gpt_tf2.backend.starting import start_backend
start_backend()
from gpt_tf2 import *
from gpt_tf2.config import tensor_shapes
def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))
load_model({str(OPENAI_TINY)!r})
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
model = load_model({str(tmp_path / name)!r})
print((memory("VmHWM") - before) / (4 * sum(math.prod(shape) for shape in tensor_shapes(model.config).values())))
"""
    # Training with little memory sets variables of TensorFlow, which the processes that it starts inherit.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    ratio = float(result.stdout)
    print(f"{name}: peak {ratio:.2f} × the weights")
    assert 0.9 < ratio <= 1.3
