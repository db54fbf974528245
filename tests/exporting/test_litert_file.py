"""LiteRT files, in LiteRT."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from gpt_tf2.checkpoints.opened import OpenedModel, open_model, save_model
from gpt_tf2.cli import main
from gpt_tf2.config import GPT2Config
from gpt_tf2.evaluation.logprobs import log_softmax_at
from gpt_tf2.exporting import litert_file
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, format_template
from gpt_tf2.tasks.chat_template import FILE as CHAT_TEMPLATE
from helpers.exporting import run
from helpers.markers import skip_on_jax
from helpers.workplace import OPENAI_TINY

pytestmark = skip_on_jax

PRECISIONS = ["float32", "int8"]
SCRIPT = Path(__file__).with_name("generate_litert.py")


@pytest.fixture(scope="module")
def model() -> OpenedModel:
    return open_model(OPENAI_TINY)


@pytest.fixture(scope="module")
def files(model: OpenedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exported model by precision."""
    folder = tmp_path_factory.mktemp("litert")
    for precision in PRECISIONS:
        litert_file.write(model, folder / f"{precision}.tflite", precision)
    return {precision: folder / f"{precision}.tflite" for precision in PRECISIONS}


def test_both_signatures_give_openais_logits(files: dict[str, Path]) -> None:
    expected = np.load(OPENAI_TINY / "expected.npz")
    logits_of, ids = litert_file.read_logits(files["float32"]), expected["tokens"][0]
    for steps in (0, 40, len(ids) - 1):
        np.testing.assert_allclose(run(logits_of, ids, steps), expected["logits"][0], atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_context_of_no_whole_chunks_an_own_output_matrix_and_a_chat_template(
    model: OpenedModel, precision: str, tmp_path: Path
) -> None:
    from gpt_tf2.model import GPT2

    config = GPT2Config(n_vocab=515, n_ctx=150, n_embd=24, n_head=3, n_layer=2, tied=False)
    network = GPT2(config, seed=3)
    save_model(network, tmp_path / "model.safetensors", model.tokenizer)
    (tmp_path / CHAT_TEMPLATE).write_text(format_template(DEFAULT_TEMPLATE))
    litert_file.write(open_model(tmp_path / "model.safetensors"), tmp_path / "x.tflite", precision)
    logits_of, ids = litert_file.read_logits(tmp_path / "x.tflite"), np.random.default_rng(0).integers(0, 515, 150)
    ours = np.asarray(network(ids[None]))[0]
    most = 1e-5 if precision == "float32" else 0.1 * ours.std()
    for count, steps in ((150, 0), (140, 0), (150, 20), (64, 0), (65, 0), (3, 0)):
        np.testing.assert_allclose(run(logits_of, ids[:count], steps), ours[:count], atol=most)
    assert "chat_template.jinja" in zipfile.ZipFile(tmp_path / "x.tflite").namelist()


def test_int8_hardly_changes_the_perplexity(files: dict[str, Path]) -> None:
    tokens = np.load(OPENAI_TINY / "expected.npz")["tokens"]
    nats = {}
    for precision, path in files.items():
        logits_of = litert_file.read_logits(path)
        nats[precision] = -np.mean([log_softmax_at(run(logits_of, ids[:-1]), ids[1:]).mean() for ids in tokens])
    assert nats["int8"] != nats["float32"] and abs(nats["int8"] - nats["float32"]) < 0.01


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_runtime_reads_it(files: dict[str, Path], precision: str) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = files[precision].read_bytes()
    file = schema.ModelT.InitFromPackedBuf(content)
    assert all(code.customCode is None for code in file.operatorCodes)
    assert [signature.signatureKey for signature in file.signatureDefs] == [b"prefill", b"decode"]
    tensors = [buffer for buffer in file.buffers if buffer.offset]
    assert len(tensors) == 2 + 12 * 3 + 2 and all(buffer.offset % 16 == 0 for buffer in tensors)
    matrices = 512 * 48 + 3 * 12 * 48 * 48  # numbers in them
    vectors = 64 * 48 + 3 * 13 * 48 + 2 * 48
    assert sum(buffer.size for buffer in tensors) == matrices * (4 if precision == "float32" else 1) + 4 * vectors


def test_the_vocabulary_lies_in_the_file(model: OpenedModel, files: dict[str, Path]) -> None:
    text = "The lanterns of Orrin é\n\n  12's 😀"
    with zipfile.ZipFile(files["float32"]) as archive:
        assert not archive.testzip() and all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.filelist)
        theirs = tokenizers.Tokenizer.from_buffer(archive.read("tokenizer.json"))
        assert theirs.encode(text).ids == model.tokenizer.encode(text)
        assert json.loads(archive.read("config.json"))["n_positions"] == 64
        assert json.loads(archive.read("generation_config.json"))["eos_token_id"] == 511


def test_the_same_model_gives_the_same_bytes(model: OpenedModel, files: dict[str, Path], tmp_path: Path) -> None:
    litert_file.write(model, tmp_path / "again.tflite", "float32")
    assert (tmp_path / "again.tflite").read_bytes() == files["float32"].read_bytes()


def test_export_compares_it_in_litert(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "tiny", "litert", "--precision", "int8", "--data", "story.txt"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "output/tiny-int8.tflite\n" and Path("output/tiny-int8.tflite").is_file()
    assert printed.err.startswith("compared in LiteRT: largest logit difference ") and printed.err.count("\n") == 1


@pytest.mark.slow
def test_litert_alone_writes_our_64_tokens(model: OpenedModel, files: dict[str, Path], tmp_path: Path) -> None:
    """In a process that imports neither our package nor TensorFlow."""
    network, ids = model.load(), [17]  # so that 64 more fit into the context of 64
    for _ in range(64):
        ids.append(int(np.asarray(network(np.array([ids])))[0, -1].argmax()))
    command = [sys.executable, SCRIPT, files["float32"], "[17]", "64"]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ids and len(set(ids)) > 10
