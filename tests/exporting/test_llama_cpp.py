"""GGUF files in llama.cpp itself: it computes, writes and tokenizes as our model does."""

import ctypes
import random
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gpt_tf2 import GPT2
from gpt_tf2.checkpoints.opened import OpenedModel, open_model, save_model
from gpt_tf2.commands.export import FORMATS
from gpt_tf2.config import GPT2Config
from gpt_tf2.exporting.gguf_file import read_logits, write
from gpt_tf2.exporting.proof import prove
from gpt_tf2.model import random_tensors
from gpt_tf2.tokenizer import Tokenizer
from helpers.exporting import expect, run, write_wide_model
from helpers.markers import skip_on_jax
from helpers.workplace import OPENAI_TINY

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python, which is compiled for minutes, is not installed")
pytestmark = skip_on_jax

SCRIPTS = ((0x20, 0x7F), (0, 0x20), (0x80, 0x2FF), (0x2000, 0x206F), (0x300, 0x36F), (0x600, 0x6FF), (0x900, 0x97F))
SCRIPTS += (
    (0x2150, 0x24FF),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1F6FF),
    (0xE000, 0xE0FF),
)
NASTY = [
    "<|endoftext|>",
    "a<|endoftext|>b",
    "  \n\n  x",
    "I'll we've 'S 'LL's",
    "\t\tx \r\n\r\n y",
    "\u3000\u3000x\xa0\xa0y",
]
NASTY += [
    "²³½ Ⅷ 12",
    "e\u0301\u200b x",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\ufeffx",
    "0123456789" * 20,
    " " * 500,
    "\n" * 99,
    "a" * 999,
    "\x85x\x1f y",
]


def write_strings() -> list[str]:
    """Two hundred strings: cases that broke tokenizers, and noise of every script with spaces, digits and quotes."""
    draw, strings = random.Random(0), [*NASTY]
    while len(strings) < 200:
        first, last = draw.choice(SCRIPTS)
        common = [*" \n'", *"09aZ"]
        strings.append("".join(draw.choice([chr(draw.randint(first, last)), draw.choice(common)]) for _ in range(30)))
    return strings


def tokenize(path: Path, texts: list[str], special: bool = False) -> list[list[int]]:
    """The ids of texts in llama.cpp."""
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=False, special=special) for text in texts]


@pytest.mark.parametrize(
    ("precision", "tied"), [("float32", True), ("float32", False), ("float16", True), ("q8_0", True)]
)
def test_llama_cpp_computes_the_same(precision: str, tied: bool, tmp_path: Path) -> None:
    config = GPT2Config(512, 128, 64, 4, 3, tied=tied)
    network = GPT2(config, read=random_tensors(config, seed=5, std=0.1))
    tokenizer = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    save_model(network, tmp_path / "model.safetensors", tokenizer)
    write(open_model(tmp_path), tmp_path / "m.gguf", precision)
    text = np.random.default_rng(1).integers(0, 512, 128)
    expected = expect(open_model(tmp_path), text)
    proof = prove(expected, read_logits(tmp_path / "m.gguf"))
    assert proof.holds(FORMATS["gguf"].precisions[precision]) and proof.spread > 0.5
    if precision == "float32":
        assert proof.difference < 3e-3 * proof.spread  # llama.cpp looks GELU up in a table of float16
        assert proof.equal == proof.greedy == 64
        assert generate(tmp_path / "m.gguf", expected.prompt.tolist(), 64) == expected.greedy.tolist()
    assert abs(np.log(proof.perplexities[1] / proof.perplexities[0])) < 0.01


def test_a_short_context_is_opened_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(open_model(OPENAI_TINY), tmp_path / "m.gguf", "float32")
    logits_of = read_logits(tmp_path / "m.gguf")
    assert run(logits_of, np.array([1, 2, 3])).shape == (3, 512)
    assert capfd.readouterr() == ("", "")


def test_all_but_gelu_is_exact(tmp_path: Path) -> None:
    """Without the output of its MLPs, a model is free of llama.cpp's table of GELU, which is in float16."""
    config = GPT2Config(512, 128, 64, 4, 3)
    draw = random_tensors(config, seed=5, std=0.3)
    network = GPT2(config, read=lambda name: draw(name) * (not name.endswith("mlp/c_proj/w")))
    tokenizer = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    save_model(network, tmp_path / "model.safetensors", tokenizer)
    write(open_model(tmp_path), tmp_path / "m.gguf", "float32")
    expected = expect(open_model(tmp_path), np.random.default_rng(1).integers(0, 512, 128))
    proof = prove(expected, read_logits(tmp_path / "m.gguf"))
    assert proof.difference < 3e-4 and proof.spread > 2 and proof.equal == 64


def generate(path: Path, prompt: list[int], count: int) -> list[int]:
    """The greedy tokens that llama.cpp writes, step by step, with its cache."""
    model = llama_cpp.Llama(str(path), n_ctx=0, verbose=False)
    model.reset()
    written = model.generate(prompt, temp=0.0, repeat_penalty=1.0)
    return [next(written) for _ in range(count)]


def test_llama_cpp_tokenizes_the_same(gpt2_vocabulary: tuple[Path, Path], tmp_path: Path) -> None:
    path = write_wide_model(tmp_path / "m", config=GPT2Config(50257, 64, 32, 2, 1), vocabulary=gpt2_vocabulary)
    model = open_model(path)
    write(model, tmp_path / "m.gguf", "float16")
    strings = write_strings()
    assert len(set(strings)) == 200
    assert tokenize(tmp_path / "m.gguf", strings) == [model.tokenizer.encode(text) for text in strings]
    specials = [f"{text}<|endoftext|>" for text in strings[:30]]
    expected = [model.tokenizer.encode(text, allow_special=True) for text in specials]
    assert tokenize(tmp_path / "m.gguf", specials, special=True) == expected


def test_llama_cpp_knows_added_tokens(tmp_path: Path) -> None:
    path = write_wide_model(tmp_path / "m", config=GPT2Config(520, 64, 32, 2, 1))
    model = open_model(path)
    extended = model.tokenizer.with_added(["<user>", "<bot>", "<user> x"])
    write(OpenedModel(model.path, model.config, extended, model.sources, model.stamp), tmp_path / "m.gguf", "float32")
    texts = ["<user>hello<bot>", "a <user> xy", "<use r>", "<user><user>  <bot>\n"]
    assert tokenize(tmp_path / "m.gguf", texts) == [extended.encode(text) for text in texts]


def test_q8_0_has_the_bytes_of_llama_cpps_own_quantizer() -> None:
    """What `write` calls, beside what `llama-quantize` does; rows of zeros and of ties included."""
    values = np.random.default_rng(0).standard_normal((96, 768), "float32") * np.float32(0.02)
    values[3], values[4, :64], values[5] = 0, 127 * np.float32(2) ** -10, np.linspace(-1, 1, 768)
    quantize = load_ggml().ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    expected = np.zeros((96, 768 // 32 * 34), "uint8")
    kind = gguf.GGMLQuantizationType.Q8_0
    size = quantize(int(kind), values.ctypes.data, expected.ctypes.data, 0, *values.shape, None)
    assert size == expected.size
    np.testing.assert_array_equal(gguf.quantize(values, kind), expected)


def load_ggml() -> Any:
    """The library of llama.cpp that quantizes."""
    folder, suffix = Path(llama_cpp.__file__).parent / "lib", "dylib" if sys.platform == "darwin" else "so"
    return ctypes.CDLL(str(folder / f"libggml-base.{suffix}"))
