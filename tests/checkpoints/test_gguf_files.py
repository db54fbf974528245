"""GGUF files to checkpoints: what `export` writes comes back, and what is no GPT-2 is refused."""

import json
import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.gguf_files import open_checkpoint, read_vocabulary
from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.cli import main
from gpt_tf2.config import GPT2Config
from gpt_tf2.exporting.gguf_file import write
from gpt_tf2.storage.gguf import open_gguf
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, format_template
from helpers.exporting import write_wide_model
from helpers.markers import skip_on_jax
from helpers.workplace import list_names

pytestmark = skip_on_jax
NARROW = GPT2Config(512, 64, 48, 4, 3)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["float32", "float16", "q8_0"])
def test_an_exported_model_comes_back(precision: str, tied: bool, tmp_path: Path) -> None:
    config = GPT2Config(512, 128, 64, 4, 2, tied=tied)
    model = open_model(write_wide_model(tmp_path / "m", config=config))
    write(model, tmp_path / "m.gguf", precision)
    assert main(["import", str(tmp_path / "m.gguf"), "--output", str(tmp_path / "back" / "model.safetensors")]) == 0
    back = open_model(tmp_path / "back")
    assert back.config == config and back.tokenizer.digest == model.tokenizer.digest
    assert back.tokenizer.list_files(False) == model.tokenizer.list_files(False)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    file = open_gguf(tmp_path / "m.gguf")
    for name in model.checkpoint.shapes:
        values = back.checkpoint.read(name)
        if precision == "float32":
            np.testing.assert_array_equal(values, model.checkpoint.read(name), strict=True)
    for name, tensor in stored.items():
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(file.read(name), expected, strict=True)


def test_added_tokens_and_holes_come_back(tmp_path: Path) -> None:
    model = open_model(write_wide_model(tmp_path / "m", config=GPT2Config(520, 64, 32, 2, 1)))
    tokenizer = model.tokenizer.with_added(["<user>", "<bot>"])
    write(OpenedModel(model.path, model.config, tokenizer, model.sources, model.stamp), tmp_path / "m.gguf", "float32")
    back = read_vocabulary(open_gguf(tmp_path / "m.gguf"))
    assert (back.digest, back.end_of_text, back.n_vocab) == (tokenizer.digest, tokenizer.end_of_text, 514)
    text = "<user>hello <bot> \n\n12<|endoftext|>"
    for allow_special in (True, False):
        assert back.encode(text, allow_special) == tokenizer.encode(text, allow_special)


def test_the_output_matrix_of_older_files_is_the_embedding(tmp_path: Path) -> None:
    """llama.cpp's converter once wrote it into every file."""
    path = write_file(tmp_path, extra={"output.weight": np.zeros((512, 48), "float32")})
    assert not open_checkpoint(open_gguf(path)).config.tied  # type: ignore[union-attr]
    wte = open_gguf(path).read("token_embd.weight")
    checkpoint = open_checkpoint(open_gguf(write_file(tmp_path, extra={"output.weight": wte})))
    assert checkpoint.config == NARROW
    np.testing.assert_array_equal(checkpoint.read("wte"), wte)


def write_file(
    folder: Path, extra: dict[str, np.ndarray] | None = None, renamed: dict[str, str] | None = None, **changes: Any
) -> Path:
    """A model as a GGUF file with more tensors, or with other names, and with other fields; None takes one away."""
    write(open_model(write_wide_model(folder / "m", config=NARROW)), folder / "plain.gguf", "float32")
    source = gguf.GGUFReader(folder / "plain.gguf")
    writer = gguf.GGUFWriter(folder / "m.gguf", changes.get("architecture", "gpt2"))
    for name, field in source.fields.items():
        short = name.rpartition(".")[2]
        if name.startswith("GGUF.") or short == "architecture" or changes.get(short, "") is None:
            continue
        value, kinds = changes.get(short, field.contents()), field.types
        writer.add_key_value(name, value, kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for tensor in source.tensors:
        writer.add_tensor((renamed or {}).get(tensor.name, tensor.name), tensor.data)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "m.gguf"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"architecture": "llama"}, "its architecture is llama, not gpt2: give a GGUF file of a GPT-2"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 9.99"),
        ({"pre": "llama-bpe"}, "its vocabulary is gpt2 with the splitter llama-bpe, not GPT-2's byte-level BPE"),
        ({"tokens": None}, "no vocabulary in it"),
        ({"head_count": 5}, "n_head 5 does not divide n_embd 48"),
        ({"block_count": 2}, "tensor blk.2.attn_norm.weight is not part of this GPT-2"),
        ({"block_count": 4}, "tensor h3/ln_1/g is missing"),
        ({"renamed": {"token_embd.weight": "wte"}}, "tensor wte is not part of this GPT-2"),
        ({"extra": {"rope_freqs.weight": np.zeros(2, "float32")}}, "tensor rope_freqs.weight is not part of this"),
        ({"extra": {"output.weight": np.zeros((512, 48), "int8")}}, "tensor output.weight is quantized in another way"),
    ],
)
def test_what_is_no_gpt2_is_refused_in_one_line(
    changes: dict[str, Any], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_file(tmp_path, **changes)
    assert main(["import", str(path), "--output", str(tmp_path / "out" / "m.h5")]) == 2
    assert problem in capsys.readouterr().err
    assert list_names(tmp_path) == ["m", "m.gguf", "plain.gguf"]


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """Bytes changed, cut off or made huge: an InputError, or other numbers, but no other error, memory or time."""
    write(
        open_model(write_wide_model(tmp_path / "m", config=GPT2Config(512, 8, 32, 2, 1))), tmp_path / "m.gguf", "q8_0"
    )
    content, draw = (tmp_path / "m.gguf").read_bytes(), random.Random(0)
    header, damaged, refused = content.index(b"output_norm"), tmp_path / "damaged.gguf", 0
    for number in range(100):
        changed = bytearray(content)
        place = draw.randrange(header if number % 3 else len(content))
        if number % 5 == 0:
            del changed[place:]
        elif number % 5 < 3:
            changed[place : place + 8] = draw.choice([b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x0f"])
        else:
            changed[place] ^= 1 << draw.randrange(8)
        damaged.write_bytes(changed)
        try:
            file = open_gguf(damaged)
            read_vocabulary(file)
            checkpoint = open_checkpoint(file)
            for name in checkpoint.shapes:
                checkpoint.read(name)
        except InputError as error:
            refused += 1
            assert str(damaged) in str(error)
    assert refused > 30


def test_the_import_is_opened_like_any_model(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("models/tiny/chat.json").write_text(format_template(DEFAULT_TEMPLATE))
    original = open_model("models/tiny")
    write(original, Path("tiny.gguf"), "float32")
    assert main(["import", "tiny.gguf"]) == 0
    assert capsys.readouterr() == ("output/tiny.h5\n", "")
    model = open_model("output/tiny.h5")
    assert model.config == original.config
    assert model.chat_template == DEFAULT_TEMPLATE
    assert (Path("output/tiny") / "encoder.json").read_bytes() == Path("models/tiny/encoder.json").read_bytes()
    for name in original.checkpoint.shapes:
        np.testing.assert_array_equal(model.checkpoint.read(name), original.checkpoint.read(name))


def test_the_exported_model_is_not_replaced(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(open_model("models/tiny"), Path("tiny.gguf"), "float32")
    Path("output/tiny").mkdir(parents=True)
    for name in ("output/tiny", "output/tiny.h5"):
        assert main(["import", "tiny.gguf"]) == 2
        assert capsys.readouterr().err.endswith(f"{name}: is there already: give another name as --output\n")
        Path("output/tiny.h5").write_text("mine")
    assert Path("output/tiny.h5").read_text() == "mine" and not list_names(Path("output/tiny"))
    assert main(["import", "tiny.gguf", "--output", "output/tiny.h5"]) == 0
    assert open_model("output/tiny.h5").config == open_model("models/tiny").config


def test_a_template_with_names_of_tokens_comes_along(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jinja = (
        "{% for m in messages %}"
        "{% if m.role == 'assistant' %}{{ '\\nBot: ' + m.content + eos_token }}"
        "{% else %}{{ bos_token + m.role + ': ' + m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '\\nBot:' }}{% endif %}"
    )
    Path("models/tiny/chat_template.jinja").write_text(jinja)
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    Path("models/tiny/tokenizer_config.json").write_text(json.dumps(names))
    original = open_model("models/tiny")
    write(original, Path("tiny.gguf"), "float32")
    assert main(["import", "tiny.gguf"]) == 0 and not capsys.readouterr().err
    assert original.chat_template and open_model("output/tiny.h5").chat_template == original.chat_template
