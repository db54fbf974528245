"""Adapters and their base: what is the same model, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpt_tf2 import InputError, Tokenizer
from gpt_tf2.checkpoints import adapters, hdf5, huggingface
from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.checkpoints.vocabularies import save_vocabulary
from gpt_tf2.config import GPT2Config, adapter_shapes, tensor_shapes
from helpers.fuzzing import CONFIG, describe_base, random_tensors
from helpers.workplace import OPENAI_TINY, swap_last_tokens

TENSORS = random_tensors(tensor_shapes(CONFIG))
FACTORS = random_tensors(adapter_shapes(CONFIG, 2))


def write_pair(folder: Path) -> Path:
    """A base, `base.h5`, and adapters of it, whose path it returns."""
    hdf5.write(folder / "base.h5", CONFIG, TENSORS)
    adapters.write(folder / "a.h5", CONFIG, describe_base(hdf5.open_checkpoint(folder / "base.h5")), FACTORS)
    return folder / "a.h5"


def change_attributes(path: Path, **changes: str | None) -> None:
    """Sets attributes of an HDF5 file; None removes one."""
    with h5py.File(path, "r+") as file:
        for name, value in changes.items():
            file.attrs.pop(name, None)
            if value is not None:
                file.attrs[name] = value


def read_all(path: Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(path)
    checkpoint.check(CONFIG)
    return {name: checkpoint.read(name) for name in checkpoint.shapes}


@pytest.mark.parametrize("name", TENSORS)
def test_a_base_that_differs_in_one_bit_is_refused(tmp_path: Path, name: str) -> None:
    path = write_pair(tmp_path)
    changed = TENSORS[name].copy()
    changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(np.inf))
    hdf5.write(tmp_path / "base.h5", CONFIG, TENSORS | {name: changed})
    with pytest.raises(InputError, match=r"a\.h5: made for another model than the one now at .*base\.h5: put"):
        read_all(path)


def test_a_base_replaced_after_opening_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    huggingface.write(tmp_path / "model.safetensors", CONFIG, TENSORS)
    change_attributes(path, base_from_here="model.safetensors")
    opened = open_checkpoint(path)
    huggingface.write(tmp_path / "model.safetensors", CONFIG, TENSORS | {"wte": TENSORS["wte"] + 1})
    assert np.array_equal(opened.read("h0/ln_1/g"), TENSORS["h0/ln_1/g"])
    with pytest.raises(InputError, match="made for another model"):
        opened.read("wte")


def test_a_base_with_the_same_weights_in_another_place_or_format_is_taken(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    expected = read_all(path)
    huggingface.write(tmp_path / "moved" / "model.safetensors", CONFIG, TENSORS)
    change_attributes(path, base_from_here="moved")
    (tmp_path / "base.h5").unlink()
    assert all(np.array_equal(values, expected[name]) for name, values in read_all(path).items())


def test_adapters_find_their_base_from_every_folder_and_after_moving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hdf5.write(Path("one/models/base.h5"), CONFIG, TENSORS)
    base = describe_base(open_checkpoint("one/models/base.h5"))
    adapters.write(Path("one/output/a.h5"), CONFIG, base, FACTORS)
    monkeypatch.chdir(tmp_path / "one" / "output")
    read_all(Path("a.h5"))
    monkeypatch.chdir(tmp_path)
    Path("one").rename("other")
    read_all(Path("other/output/a.h5"))
    Path("other/output/a.h5").rename("a.h5")
    with pytest.raises(InputError, match=r"a.h5 holds adapters of one/models/base.h5, which cannot be opened"):
        open_checkpoint("a.h5")
    Path("other").rename("one")
    read_all(Path("a.h5"))


def test_adapters_of_an_earlier_version_are_checked_by_its_rule(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    former = hashlib.sha256(b"".join(TENSORS[name].tobytes() for name in ("wpe", "ln_f/g", "ln_f/b"))).hexdigest()
    expected = read_all(path)
    new = dict.fromkeys(("base_digests", "vocabulary_digest", "base_from_here"))
    change_attributes(path, **new, base_digest=former)
    assert all(np.array_equal(values, expected[name]) for name, values in read_all(path).items())
    hdf5.write(tmp_path / "base.h5", CONFIG, TENSORS | {"wpe": TENSORS["wpe"] + 1})
    with pytest.raises(InputError, match="made for another model"):
        open_checkpoint(path)


def test_adapters_of_adapters_know_both_files_below(tmp_path: Path) -> None:
    inner = write_pair(tmp_path)
    adapters.write(tmp_path / "outer.h5", CONFIG, describe_base(open_checkpoint(inner)), FACTORS)
    merged = read_all(tmp_path / "outer.h5")
    a, b = (FACTORS[f"h0/attn/c_attn/lora_{letter}"] for letter in "ab")
    np.testing.assert_allclose(merged["h0/attn/c_attn/w"], TENSORS["h0/attn/c_attn/w"] + 2 * a @ b, rtol=1e-5)
    base = describe_base(hdf5.open_checkpoint(tmp_path / "base.h5"))
    for name in FACTORS:
        adapters.write(inner, CONFIG, base, FACTORS | {name: FACTORS[name] * 2})
        with pytest.raises(InputError, match=r"outer\.h5: made for another model than the one now at .*a\.h5: "):
            read_all(tmp_path / "outer.h5")
    adapters.write(inner, CONFIG, base, FACTORS)
    hdf5.write(tmp_path / "base.h5", CONFIG, TENSORS | {"h0/attn/c_attn/w": TENSORS["h0/attn/c_attn/w"] + 1})
    with pytest.raises(InputError, match=r"a\.h5: made for another model than the one now at .*base\.h5: "):
        read_all(tmp_path / "outer.h5")


def test_the_digests_of_a_thousand_blocks_fit_into_a_file(tmp_path: Path) -> None:
    digests = dict.fromkeys(tensor_shapes(GPT2Config(n_vocab=8, n_ctx=4, n_embd=4, n_head=2, n_layer=1000)), "0" * 64)
    adapters.write(tmp_path / "a.h5", CONFIG, adapters.Base(tmp_path, digests, ""), FACTORS)
    assert json.loads(hdf5.open_hdf5(tmp_path / "a.h5").attribute("base_digests")) == digests


def test_a_replaced_vocabulary_is_refused(tmp_path: Path) -> None:
    files = OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe"
    base = describe_base(open_checkpoint(OPENAI_TINY), Tokenizer(*files).digest)
    config = GPT2Config.from_json(OPENAI_TINY / "hparams.json")
    path = tmp_path / "a.h5"
    adapters.write(path, config, base, random_tensors(adapter_shapes(config, 1)))
    save_vocabulary(Tokenizer(*files), path)
    open_model(path)
    pretty = json.dumps(json.loads(files[0].read_text()), indent=1)
    (tmp_path / "a" / "encoder.json").write_text(pretty)  # the same tokens
    open_model(path)
    swap_last_tokens(tmp_path / "a")
    with pytest.raises(InputError, match=r"a/encoder\.json: another vocabulary than .* adapters .*a\.h5 were trained"):
        open_model(path)
    change_attributes(path, vocabulary_digest=None)  # as earlier versions wrote it
    open_model(path)


def test_the_saved_vocabulary_is_the_one_that_was_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(OPENAI_TINY / name, source)
    (source / "vocab.bpe").write_bytes((source / "vocab.bpe").read_bytes().replace(b"\n", b"\r\n"))
    contents = {path.name: path.read_bytes() for path in source.iterdir()}
    tokenizer = Tokenizer(source / "encoder.json", source / "vocab.bpe")
    swap_last_tokens(source)
    assert Tokenizer(source / "encoder.json", source / "vocab.bpe").digest != tokenizer.digest
    for path in (tmp_path / "m.h5", source):
        save_vocabulary(tokenizer, path)
    for folder in (tmp_path / "m", source):
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
