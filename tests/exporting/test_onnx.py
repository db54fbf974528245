"""ONNX folders, in ONNX Runtime and in transformers.js."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.opened import OpenedModel, open_model, save_model
from gpt_tf2.config import GPT2Config
from gpt_tf2.exporting import onnx_file, onnx_tensors
from gpt_tf2.exporting.proof import LogitsOf
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, format_template
from gpt_tf2.tasks.chat_template import FILE as CHAT_TEMPLATE
from helpers.exporting import run
from helpers.markers import skip_on_jax
from helpers.workplace import OPENAI_TINY, list_names

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = skip_on_jax

PROMPT = [17]  # of one token, so that 64 more fit into the context of 64
GRAPHS = {"float32": "model.onnx", "int8": "model_quantized.onnx"}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def model() -> OpenedModel:
    return open_model(OPENAI_TINY)


@pytest.fixture(scope="module")
def greedy(model: OpenedModel) -> list[int]:
    """The prompt and 64 greedy tokens of our network."""
    network = model.load()
    return continue_greedily(lambda ids, steps=0: [np.asarray(network(ids[None]))[0]])


@pytest.fixture(scope="module")
def folders(model: OpenedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model exported in float32 and in int8, each as a folder of that name."""
    folders = tmp_path_factory.mktemp("onnx")
    for precision in GRAPHS:
        onnx_file.write(model, folders / precision, precision)
    return folders


def continue_greedily(logits_of: LogitsOf) -> list[int]:
    """The prompt and 64 tokens, without a cache."""
    ids = list(PROMPT)
    for _ in range(64):
        ids.append(int(run(logits_of, np.array(ids))[-1].argmax()))
    return ids


class Session:
    """ONNX Runtime with the cache of the tokens so far; the first of its inputs are left-padded."""

    def __init__(self, path: Path):
        self.session = onnxruntime.InferenceSession(path)
        self.names = [x.name for x in self.session.get_inputs()[3:]]
        self.cache: list[np.ndarray] = []
        self.mask = np.zeros((0, 0), "int64")

    def extend(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """The logits [B, T, V] of new tokens [B, T]."""
        if not self.cache:
            shape = self.session.get_inputs()[3].shape
            self.cache = [np.zeros((len(ids), shape[1], 0, shape[3]), "float32")] * len(self.names)
            self.mask = np.zeros((len(ids), 0), "int64")
        self.mask = np.concatenate([self.mask, np.ones_like(ids) if mask is None else mask], axis=1)
        positions = np.maximum(0, self.mask.cumsum(axis=1) - 1)[:, -ids.shape[1] :]
        given = {"input_ids": ids, "attention_mask": self.mask, "position_ids": positions}
        logits, *self.cache = self.session.run(None, given | dict(zip(self.names, self.cache, strict=True)))
        return logits


def test_the_graph_gives_openais_logits(folders: Path) -> None:
    expected = np.load(OPENAI_TINY / "expected.npz")
    logits_of = onnx_file.read_logits(folders / "float32")
    assert np.abs(run(logits_of, expected["tokens"][0]) - expected["logits"][0]).max() < 1e-5


def test_64_greedy_tokens_are_ours_with_and_without_the_cache(folders: Path, greedy: list[int]) -> None:
    assert continue_greedily(onnx_file.read_logits(folders / "float32")) == greedy
    session, cached = Session(folders / "float32" / "onnx" / GRAPHS["float32"]), list(PROMPT)
    for _ in range(64):
        cached.append(int(session.extend(np.array([cached[-1:]]))[0, -1].argmax()))
    assert cached == greedy and len(set(greedy)) > 10
    logits_of, ids = onnx_file.read_logits(folders / "float32"), np.array(greedy[:-1])
    assert np.abs(run(logits_of, ids, steps=60) - run(logits_of, ids)).max() < 1e-4


@pytest.mark.parametrize("precision", GRAPHS)
def test_a_left_padded_sequence_has_the_logits_that_it_has_alone(folders: Path, precision: str) -> None:
    draw = np.random.default_rng(0)
    long, short, more = (draw.integers(0, 512, (1, count)) for count in (12, 5, 3))
    path = folders / precision / "onnx" / GRAPHS[precision]
    alone, batch = Session(path), Session(path)
    padding = np.zeros((1, 7), "int64")
    ids = np.concatenate([long, np.concatenate([padding, short], axis=1)])
    mask = np.concatenate([np.ones_like(long), np.concatenate([padding, np.ones_like(short)], axis=1)])
    assert np.abs(batch.extend(ids, mask)[1, 7:] - alone.extend(short)[0]).max() < 1e-4
    assert np.abs(batch.extend(np.repeat(more, 2, axis=0))[1] - alone.extend(more)[0]).max() < 1e-4


def test_int8_hardly_changes_the_perplexity(folders: Path) -> None:
    tokens = np.load(OPENAI_TINY / "expected.npz")["tokens"]
    nats = {}
    for precision in GRAPHS:
        logits_of, losses = onnx_file.read_logits(folders / precision), []
        for ids in tokens:
            logits = run(logits_of, ids[:-1]).astype("float64")
            totals = np.log(np.exp(logits).sum(axis=-1))
            losses.append(totals - logits[np.arange(len(ids) - 1), ids[1:]])
        nats[precision] = np.mean(losses)
    assert nats["int8"] != nats["float32"]
    assert abs(nats["int8"] - nats["float32"]) < 0.01  # of 1 %
    sizes = [(folders / precision / "onnx" / name).stat().st_size for precision, name in GRAPHS.items()]
    assert sizes[1] < 0.4 * sizes[0]


@pytest.mark.parametrize("precision", GRAPHS)
def test_the_graph_is_valid_and_the_folder_complete(folders: Path, precision: str) -> None:
    folder = folders / precision
    graph = onnx.load(folder / "onnx" / GRAPHS[precision])
    onnx.checker.check_model(graph, full_check=True)
    assert [opset.domain for opset in graph.opset_import] == [""] and not graph.functions
    config = json.loads((folder / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": {"float32": "fp32", "int8": "q8"}[precision]}
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 511
    files = ["config.json", "generation_config.json", "merges.txt", "onnx", "tokenizer.json", "tokenizer_config.json"]
    assert list_names(folder) == [*files, "vocab.json"] and list_names(folders) == sorted(GRAPHS)


def test_an_own_output_matrix_ids_without_a_token_and_a_chat_template_come_along(
    model: OpenedModel, tmp_path: Path
) -> None:
    from gpt_tf2.model import GPT2

    network = GPT2(GPT2Config(n_vocab=515, n_ctx=16, n_embd=24, n_head=3, n_layer=2, tied=False), seed=3)
    save_model(network, tmp_path / "model.safetensors", model.tokenizer)
    (tmp_path / CHAT_TEMPLATE).write_text(format_template(DEFAULT_TEMPLATE))
    onnx_file.write(open_model(tmp_path / "model.safetensors"), tmp_path / "out" / "web")
    ids = np.arange(9)
    theirs = run(onnx_file.read_logits(tmp_path / "out" / "web"), ids)
    assert np.abs(theirs - np.asarray(network(ids[None]))[0]).max() < 1e-5
    generation = json.loads((tmp_path / "out" / "web" / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == [512, 513, 514]
    assert (tmp_path / "out" / "web" / "chat_template.jinja").is_file()
    (tmp_path / CHAT_TEMPLATE).unlink()
    unread = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(unread)
    onnx_file.write(open_model(tmp_path / "model.safetensors"), tmp_path / "unread")
    assert (tmp_path / "unread" / "chat_template.jinja").read_text() == unread


def test_what_is_too_large_for_a_file_lies_beside_it(
    model: OpenedModel, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_tensors, "MOST_BYTES", 150_000)
    onnx_file.write(model, tmp_path / "parts")
    names = list_names(tmp_path / "parts" / "onnx")
    assert names == ["model.onnx", "model.onnx_data", "model.onnx_data_1", "model.onnx_data_2", "model.onnx_data_3"]
    assert all((tmp_path / "parts" / "onnx" / name).stat().st_size < 150_000 for name in names)
    config = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert config["transformers.js_config"]["use_external_data_format"] == {"model.onnx": 4}
    ids = np.arange(20)
    whole, parts = (run(onnx_file.read_logits(folder), ids) for folder in (folders / "float32", tmp_path / "parts"))
    assert np.array_equal(whole, parts)


def test_nothing_of_the_users_is_overwritten_and_nothing_is_left_half_written(
    model: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="mine: is there already"):
        onnx_file.write(model, tmp_path / "mine")
    monkeypatch.setattr(onnx_file, "complete", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        onnx_file.write(model, tmp_path / "new")
    assert list_names(tmp_path) == ["mine"] and (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.slow
@pytest.mark.parametrize("precision", GRAPHS)
def test_transformers_js_gives_our_tokens(model: OpenedModel, folders: Path, greedy: list[int], precision: str) -> None:
    """In node, which finds the package in the folder that NODE_PATH names."""
    node = shutil.which("node")
    if not node or subprocess.run([node, "-e", "require.resolve('@huggingface/transformers')"], cwd=HERE).returncode:
        pytest.skip("node or its package @huggingface/transformers is not installed")
    text = "The lanterns of Orrin é\n\n  12's 😀"
    prompt = ",".join(map(str, PROMPT))
    command = [node, HERE / "generate.cjs", f"{folders}/", precision, prompt, "64", text]
    output = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=True).stdout
    theirs = json.loads(output.splitlines()[-1])
    assert theirs["text"] == model.tokenizer.encode(text)
    is_exact = precision == "float32"
    assert theirs["ids"] == (greedy if is_exact else continue_greedily(onnx_file.read_logits(folders / precision)))
