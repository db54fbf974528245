"""Folders of other programs, with vocabularies of every kind: the ids and the logits are theirs, both ways."""

import json
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints.opened import OpenedModel, open_model, save_model
from gpt_tf2.checkpoints.vocabularies import find_vocabulary, save_vocabulary
from gpt_tf2.tokenizer import Tokenizer
from helpers.folders import FOLDERS, nasty_strings
from helpers.workplace import OPENAI_TINY

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folder")
    FOLDERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def opened(folder: Path) -> OpenedModel:
    return open_model(folder)


def home(folder: Path) -> Path:
    """Where the vocabulary and the network of a folder lie."""
    return folder / "base" if (folder / "base").is_dir() else folder


def check_ids(ours: Tokenizer, folder: Path) -> None:
    """A tokenizer gives the ids and the texts of transformers'."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.eos_token_id == ours.end_of_text
    texts = nasty_strings([str(name) for name in theirs.added_tokens_encoder])
    for text in texts:
        ids = ours.encode(text, allow_special=True)
        assert ids == theirs.encode(text, add_special_tokens=False), text
    for id in range(len(theirs)):
        # Of an added token's name, the library's decoder returns what its normalizer makes of it.
        assert ours.decode([id]).lower() == theirs.decode([id]).lower(), id


def test_the_ids_are_those_of_transformers(folder: Path, opened: OpenedModel) -> None:
    check_ids(opened.tokenizer, home(folder))


def test_the_logits_are_those_of_transformers(folder: Path, opened: OpenedModel) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(home(folder))
    if home(folder) != folder:
        from peft import PeftModel

        theirs = PeftModel.from_pretrained(theirs, folder)
    ids = np.array([[0, 5, 17, 300, opened.config.n_vocab - 1]])
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    assert np.abs(np.asarray(opened.load()(ids)) - expected).max() < 1e-4


def test_what_we_save_of_it_is_the_same_for_transformers_and_for_us(
    folder: Path, opened: OpenedModel, tmp_path: Path
) -> None:
    save_model(opened.load(), tmp_path / "model.safetensors", opened.tokenizer)
    check_ids(opened.tokenizer, tmp_path)
    again = open_model(tmp_path)
    assert again.tokenizer.digest == opened.tokenizer.digest
    assert again.tokenizer.contents == opened.tokenizer.contents
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.eos_token_id == opened.tokenizer.end_of_text
    save_vocabulary(again.tokenizer, tmp_path / "m.h5")
    assert (tmp_path / "m" / "tokenizer.json").exists() != (tmp_path / "m" / "encoder.json").exists()


def test_the_form_that_was_saved_last_is_read(tmp_path: Path) -> None:
    tiny = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    more, path = tiny.with_added(["<user>"]), tmp_path / "m.h5"
    for tokenizer in (tiny, more, tiny):
        save_vocabulary(tokenizer, path)
        found = find_vocabulary(path)
        assert found and (found.digest, found.contents) == (tokenizer.digest, tokenizer.contents)


@pytest.mark.parametrize("name", ["model.safetensors", "model.h5"])
@pytest.mark.parametrize(
    ("stale", "content"),
    [
        ("special_tokens_map.json", {"eos_token": "<|im_end|>"}),
        ("special_tokens_map.json", {"pad_token": "<pad>"}),
        ("added_tokens.json", {"<pad>": 512}),
        ("tokenizer_config.json", {"add_prefix_space": True}),
        ("tokenizer_config.json", []),
    ],
)
def test_what_transformers_left_beside_another_vocabulary_does_not_change_a_saved_one(
    tmp_path: Path, name: str, stale: str, content: object
) -> None:
    tiny = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    (tmp_path / stale).write_text(json.dumps(content))
    save_vocabulary(tiny, tmp_path / name)
    found = find_vocabulary(tmp_path / name)
    assert found and (found.digest, found.end_of_text) == (tiny.digest, 511)
    assert found.encode("the tide") == tiny.encode("the tide")


def test_a_vocabulary_is_saved_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    monkeypatch.chdir(tmp_path)
    save_vocabulary(tiny, Path("model.safetensors"))
    for path in ("model.safetensors", "."):
        found = find_vocabulary(Path(path))
        assert found and found.digest == tiny.digest


def test_what_changes_nothing_stays_beside_a_saved_vocabulary(tmp_path: Path) -> None:
    tiny = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    kept = tmp_path / "special_tokens_map.json"
    kept.write_text('{"eos_token": "<|endoftext|>"}')
    save_vocabulary(tiny, tmp_path / "model.safetensors")
    assert kept.is_file()


def test_vocabularies_are_found_by_folder_and_by_name(tmp_path: Path) -> None:
    tiny = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    path, folder = tmp_path / "models" / "m.h5", tmp_path / "elsewhere"
    save_vocabulary(tiny.with_added(["<user>"]), folder / "model.safetensors")
    assert find_vocabulary(path) is None
    assert find_vocabulary(path, fallbacks=[folder]).n_vocab == 513
    assert find_vocabulary(path, json_encoder=folder / "tokenizer.json").n_vocab == 513
    save_vocabulary(tiny, path)
    assert find_vocabulary(path, fallbacks=[folder]).n_vocab == 512
    assert find_vocabulary(path, json_encoder=folder / "tokenizer.json").n_vocab == 513
