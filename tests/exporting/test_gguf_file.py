"""GGUF files: their tensors and their vocabulary, beside what llama.cpp's own package makes of them."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.gguf_names import TokenKind, gguf_name
from gpt_tf2.checkpoints.huggingface import transformers_name
from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.cli import main
from gpt_tf2.config import SIZES, GPT2Config, tensor_shapes
from gpt_tf2.exporting import hf_folder
from gpt_tf2.exporting.gguf_file import plan_tensors, write
from gpt_tf2.exporting.gguf_vocabulary import to_gguf
from gpt_tf2.tokenizer import Tokenizer
from gpt_tf2.vocabularies.openai import BYTE_LEVEL, FLAGS
from helpers.exporting import write_wide_model
from helpers.markers import skip_on_jax

pytestmark = skip_on_jax


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    return open_model(write_wide_model(tmp_path_factory.mktemp("wide")))


def read(path: Path) -> dict[str, Any]:
    """The tensors of a file by their names, as the package gguf reads them."""
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("precision", ["float32", "float16", "q8_0"])
def test_a_file_holds_the_tensors(model: OpenedModel, precision: str, tmp_path: Path) -> None:
    write(model, tmp_path / "m.gguf", precision)
    tensors = read(tmp_path / "m.gguf")
    assert len(tensors) == len(model.checkpoint.shapes)
    for name in model.checkpoint.shapes:
        values, stored = model.checkpoint.read(name), tensors[gguf_name(name)]
        values = values.T if name.endswith("/w") else values
        kind = "float32" if values.ndim == 1 or name == "wpe" else precision
        if kind == "q8_0":
            step = (
                np.abs(values.reshape(-1, 32)).max(-1, keepdims=True) / 127
            )  # of each block; a scale is rounded to float16
            error = np.abs(gguf.dequantize(stored.data, stored.tensor_type) - values).reshape(-1, 32)
            assert stored.tensor_type.name == "Q8_0" and (error <= 0.57 * step).all()
        else:
            np.testing.assert_array_equal(stored.data, values.astype(kind), strict=True)


@pytest.mark.parametrize("size", SIZES)
def test_names_are_those_of_llama_cpp_for_every_size(size: str) -> None:
    config = SIZES[size]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.n_layer)
    for name in tensor_shapes(config):
        assert gguf_name(name) == names.get_name(transformers_name(name), try_suffixes=(".weight", ".bias"))


@pytest.mark.parametrize("size", SIZES)
def test_shapes_are_those_of_llama_cpp_for_every_size(size: str) -> None:
    """Those that `llama_model_gpt2::load_arch_tensors` asks for, in ggml's order: the length of the rows first."""
    config = SIZES[size]
    n, blocks = config.n_embd, [f"blk.{i}" for i in range(config.n_layer)]
    expected: dict[str, tuple[int, ...]] = {"token_embd.weight": (n, 50257), "position_embd.weight": (n, 1024)}
    matrices = {"attn_qkv": (n, 3 * n), "attn_output": (n, n), "ffn_up": (n, 4 * n), "ffn_down": (4 * n, n)}
    for block in blocks:
        expected |= {f"{block}.{layer}.weight": shape for layer, shape in matrices.items()}
        expected |= {f"{block}.{layer}.bias": shape[1:] for layer, shape in matrices.items()}
    norms = ["output_norm", *(f"{block}.{layer}" for block in blocks for layer in ("attn_norm", "ffn_norm"))]
    expected |= {f"{norm}.{kind}": (n,) for norm in norms for kind in ("weight", "bias")}
    planned = plan_tensors(config, "float16")
    assert {gguf_name(name): shape[::-1] for name, (shape, _) in planned.items()} == expected


def test_rows_that_have_no_blocks_become_float16(tmp_path: Path) -> None:
    narrow = open_model(write_wide_model(tmp_path / "m", config=GPT2Config(512, 64, 48, 4, 1)))
    write(narrow, tmp_path / "m.gguf", "q8_0")
    kinds = {name: tensor.tensor_type.name for name, tensor in read(tmp_path / "m.gguf").items()}
    assert kinds["blk.0.attn_qkv.weight"] == kinds["token_embd.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"


def test_numbers_that_float16_cannot_hold_end_the_export(tmp_path: Path) -> None:
    model = open_model(write_wide_model(tmp_path / "wide", std=1e5))
    with pytest.raises(InputError, match="too small a range for tensor wte: use float32"):
        write(model, tmp_path / "m.gguf", "float16")
    assert [path.name for path in tmp_path.iterdir()] == ["wide"]


def test_the_vocabulary_has_its_ids_kinds_and_merges(model: OpenedModel) -> None:
    extended = model.tokenizer.with_added(["<user>"])
    tokens, kinds, merges = to_gguf(extended, 515)
    assert tokens[0] == "!" and tokens[510] == "Ġne" and merges[-1] == "Ġn e"
    assert tokens[511:] == ["<|endoftext|>", "<user>", "[PAD513]", "[PAD514]"]
    end = [TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNUSED, TokenKind.UNUSED]
    assert kinds == [TokenKind.NORMAL] * 511 + end


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "splits a text into words in a way that llama.cpp does not know"),
        ({"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}, "splits a text into words"),
        ({"added_tokens": [{"content": "<mask>", "lstrip": True}]}, "'<mask>' takes the spaces around it"),
        ({"added_tokens": [{"content": "[PAD514]"}]}, "two tokens have one name there"),
    ],
)
def test_a_vocabulary_that_llama_cpp_would_read_otherwise_is_refused(
    model: OpenedModel, change: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    definition = model.tokenizer.define()
    added = [*definition["added_tokens"]]
    added += [FLAGS | {"id": 512, "special": False} | token for token in change.get("added_tokens", [])]
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition | change | {"added_tokens": added}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=problem):
        to_gguf(Tokenizer(tmp_path / "tokenizer.json"), 515)


def test_a_chat_template_that_we_do_not_read_goes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jinja = "{% for message in messages %}{{ message.content | trim | upper }}\n{% endfor %}"
    folder = write_wide_model(tmp_path / "m")
    (folder / "chat_template.jinja").write_text(jinja)
    model = open_model(folder)
    assert model.unread_template
    write(model, tmp_path / "m.gguf", "float32")
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["tokenizer.chat_template"].contents() == jinja
    hf_folder.write(model, tmp_path / "hf", "float32")
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == jinja
    assert main(["import", str(tmp_path / "m.gguf"), "--output", str(tmp_path / "back.h5")]) == 0
    assert "m.gguf: its chat template is more than a text around each message" in capsys.readouterr().err
