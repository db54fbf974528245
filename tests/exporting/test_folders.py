"""The formats that are folders: transformers', and OpenAI's own."""

from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.checkpoints.opened import OpenedModel, open_model
from gpt_tf2.exporting import hf_folder, openai_folder
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE
from helpers.exporting import run
from helpers.markers import skip_on_jax
from helpers.workplace import OPENAI_TINY, list_names

pytestmark = skip_on_jax


def test_transformers_computes_and_tokenizes_what_openais_graph_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    opened = open_model(OPENAI_TINY)
    model = OpenedModel(
        opened.path, opened.config, opened.tokenizer, opened.sources, opened.stamp, chat_template=DEFAULT_TEMPLATE
    )
    hf_folder.write(model, tmp_path / "hf", "float32")
    expected = np.load(OPENAI_TINY / "expected.npz")
    logits = run(hf_folder.read_logits(tmp_path / "hf"), expected["tokens"][0])
    np.testing.assert_allclose(logits, expected["logits"][0], atol=1e-5)
    logits = run(hf_folder.read_logits(tmp_path / "hf"), expected["tokens"][0], steps=5)
    np.testing.assert_allclose(logits, expected["logits"][0], atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "I'll count 12 boats  \n\nhome.<|endoftext|>"
    assert tokenizer.encode(text) == model.tokenizer.encode(text, allow_special=True)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert chat == "\nUser: Hello"
    with pytest.raises(InputError, match="hf: is there already"):
        hf_folder.write(model, tmp_path / "hf", "float32")


def test_openais_checkpoint_comes_back_to_the_byte(tmp_path: Path) -> None:
    hf_folder.write(open_model(OPENAI_TINY), tmp_path / "hf", "float32")
    openai_folder.write(open_model(tmp_path / "hf"), tmp_path / "openai", "float32")
    assert list_names(tmp_path) == ["hf", "openai"]
    for name in list_names(tmp_path / "openai"):
        if name not in ("hparams.json", "checkpoint"):
            assert (tmp_path / "openai" / name).read_bytes() == (OPENAI_TINY / name).read_bytes(), name
    expected = np.load(OPENAI_TINY / "expected.npz")
    logits = run(openai_folder.read_logits(tmp_path / "openai"), expected["tokens"][0])
    np.testing.assert_allclose(logits, expected["logits"][0], atol=1e-4)
