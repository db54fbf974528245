"""Models that other programs wrote, in every form: the tensors and the logits are theirs."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpt_tf2 import GPT2, GPT2Config, InputError, load_model, save_model
from gpt_tf2.checkpoints.companions import companion_folder
from gpt_tf2.checkpoints.formats import (
    list_sources,
    locate,
    open_checkpoint,
    read_config,
    read_transformers_settings,
    write_checkpoint,
)
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.checkpoints.transformers_settings import NOTHING_KEPT
from gpt_tf2.config import tensor_shapes
from helpers.foreign import (
    name_tensors,
    name_tf_variables,
    write_config,
    write_model_of_2019,
    write_pickled,
    write_run_of_gpt_2_simple,
    write_shards,
    write_tf_model,
)
from helpers.fuzzing import CONFIG, random_tensors
from helpers.workplace import OPENAI_TINY, list_names

TENSORS = random_tensors(tensor_shapes(CONFIG))
IDS = np.array([[3, 1, 7, 5], [0, 2, 2, 6]])


def check_tensors(path: Path, expected: dict[str, np.ndarray] = TENSORS, config: GPT2Config = CONFIG) -> None:
    """A checkpoint has these tensors, bit for bit, and these hyper-parameters."""
    checkpoint = open_checkpoint(path)
    checkpoint.check(config)
    assert read_config(locate(path)) in (None, config)
    for name, value in expected.items():
        read = checkpoint.read(name)
        assert read.dtype == "float32" and np.array_equal(read, value), name


# Hugging Face


def test_several_files_with_an_index_open_by_folder_and_by_index(tmp_path: Path) -> None:
    write_shards(tmp_path, CONFIG, TENSORS)
    check_tensors(tmp_path)
    check_tensors(tmp_path / "model.safetensors.index.json")
    assert [path.name for path in list_sources(locate(tmp_path))] == [
        "model.safetensors.index.json",
        *(f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)),
        "config.json",
    ]
    assert companion_folder(locate(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda weights: weights | {"x": "../model.safetensors"},
            r"index.json: ../model.safetensors is no file beside",
        ),
        (lambda weights: weights | {"x": "/etc/passwd"}, "/etc/passwd is no file beside it"),
        (lambda weights: weights | {"x": 3}, "index.json: 3 is no file"),
        (lambda weights: weights | {"x": "gone.safetensors"}, "gone.safetensors: no such file, but model.safetensors"),
        (lambda weights: weights | {"x": next(iter(weights.values()))}, "00001-of-00003.safetensors: no tensor x"),
        (lambda weights: [], "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    write_shards(tmp_path, CONFIG, TENSORS)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"weight_map": change(content["weight_map"])}))
    with pytest.raises(InputError, match=words):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "prefix",
    ["", "_orig_mod.", "module.transformer.", "model.transformer.", "_orig_mod.module.model._orig_mod.transformer."],
)
def test_prefixes_of_tools_are_taken_away(tmp_path: Path, prefix: str) -> None:
    write_config(tmp_path, CONFIG)
    masks = {f"{prefix}h.0.attn.{name}": np.ones((1, 1, 4, 4), "uint8") for name in ("bias", "masked_bias")}
    save_file(name_tensors(TENSORS, prefix) | masks, tmp_path / "model.safetensors")
    check_tensors(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        {"n_positions": None, "n_ctx": 4},
        {"n_ctx": 1024},  # where they differ, n_positions counts
        {"n_positions": None, "max_position_embeddings": 4, "n_embd": None, "hidden_size": 4},
    ],
)
def test_other_names_of_hyper_parameters_are_read(tmp_path: Path, names: dict[str, Any]) -> None:
    write_config(tmp_path, CONFIG, **names)
    save_file(name_tensors(TENSORS), tmp_path / "model.safetensors")
    check_tensors(tmp_path)


def test_an_output_matrix_of_its_own_is_read_written_and_used(tmp_path: Path) -> None:
    write_config(tmp_path, CONFIG)
    head = TENSORS["wte"] + 1
    save_file(name_tensors(TENSORS) | {"lm_head.weight": TENSORS["wte"]}, tmp_path / "model.safetensors")
    check_tensors(tmp_path)
    tied = load_model(tmp_path)
    save_file(name_tensors(TENSORS) | {"lm_head.weight": head}, tmp_path / "model.safetensors")
    untied = GPT2Config(**vars(CONFIG) | {"tied": False})
    check_tensors(tmp_path, TENSORS | {"lm_head": head}, untied)
    model = load_model(tmp_path)
    assert np.allclose(model(IDS), np.asarray(model.hidden_states(IDS)) @ head.T, atol=1e-5)
    assert not np.allclose(model(IDS), tied(IDS))
    for name in ("a.h5", "b/model.safetensors", "c.ckpt"):
        save_model(model, tmp_path / name)
        again = load_model(tmp_path / name)
        assert again.config == untied and np.array_equal(model(IDS), again(IDS)), name
    assert "tied" not in CONFIG.to_json()


def test_an_output_matrix_stands_for_a_token_embedding_that_was_left_out(tmp_path: Path) -> None:
    """As safetensors' `save_model` writes tied ones, under the first of their names."""
    write_config(tmp_path, CONFIG)
    named = name_tensors(TENSORS)
    save_file(named | {"lm_head.weight": named.pop("transformer.wte.weight")}, tmp_path / "model.safetensors")
    check_tensors(tmp_path)


def test_without_config_json_an_output_matrix_of_its_own_is_not_left_out(tmp_path: Path) -> None:
    save_file(name_tensors(TENSORS) | {"lm_head.weight": TENSORS["wte"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="lm_head is not part of this GPT-2"):
        open_checkpoint(tmp_path).check(CONFIG)


@pytest.mark.slow
def test_transformers_agrees_about_an_output_matrix_of_its_own(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=60, n_positions=16, n_embd=12, n_head=3, n_layer=2, tie_word_embeddings=False
        )
    ).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="9KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    ours = load_model(tmp_path / "theirs")
    ids = np.arange(16)[None]
    expected = theirs(torch.tensor(ids)).logits.detach().numpy()
    assert not ours.config.tied and np.abs(np.asarray(ours(ids)) - expected).max() < 1e-5
    save_model(ours, tmp_path / "ours" / "model.safetensors")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert np.array_equal(again(torch.tensor(ids)).logits.detach().numpy(), expected)


def read_settings(folder: Path) -> list[dict[str, Any]]:
    """The contents of config.json and generation_config.json."""
    return [json.loads((folder / name).read_text()) for name in ("config.json", "generation_config.json")]


def test_what_transformers_keeps_of_a_base_is_saved_again(tmp_path: Path) -> None:
    kept = {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": [0, 7], "embd_pdrop": 0.25}
    write_config(tmp_path, CONFIG, **kept, n_ctx=9, dtype="float16", _name_or_path="x", auto_map={}, architectures=[])
    sampling = {"do_sample": True, "top_k": 7, "eos_token_id": 0}
    (tmp_path / "generation_config.json").write_text(json.dumps(sampling | {"transformers_version": "4.0.0"}))
    save_file(name_tensors(TENSORS), tmp_path / "model.safetensors")
    settings = read_transformers_settings(locate(tmp_path))
    write_checkpoint(tmp_path / "a" / "model.safetensors", CONFIG, TENSORS, 7, settings)
    config, generation = read_settings(tmp_path / "a")
    assert config == config | kept | {"dtype": "float32", "architectures": ["GPT2LMHeadModel"]}
    assert not {"n_ctx", "_name_or_path", "auto_map", "torch_dtype"} & config.keys()
    # A text ends with 7 here, which is one of the ids in the first file only.
    assert generation == sampling | {"bos_token_id": 1, "pad_token_id": 3, "eos_token_id": 7}
    write_checkpoint(tmp_path / "b" / "model.safetensors", CONFIG, TENSORS, 2, NOTHING_KEPT)
    config, generation = read_settings(tmp_path / "b")
    assert generation == {"bos_token_id": 2, "eos_token_id": 2} and config == config | generation
    assert read_transformers_settings(write_checkpoint(tmp_path / "c.h5", CONFIG, TENSORS)) == NOTHING_KEPT


def test_damaged_settings_are_in_the_way_of_what_would_keep_them_only(tmp_path: Path) -> None:
    config = open_model(OPENAI_TINY).config
    write_config(tmp_path, config)
    save_file(name_tensors(random_tensors(tensor_shapes(config))), tmp_path / "model.safetensors")
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(OPENAI_TINY / name, tmp_path)
    (tmp_path / "generation_config.json").write_text('{"do_sample": tr')
    model = open_model(tmp_path)
    assert model.settings_for("a.h5") == NOTHING_KEPT
    with pytest.raises(InputError, match="generation_config"):
        model.settings_for("a.safetensors")


# pytorch_model.bin


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("old", [False, True])  # the format of before torch 1.6, which OpenAI's models have on the hub
def test_a_pytorch_model_is_read_by_torch(tmp_path: Path, dtype: str, old: bool) -> None:
    write_pickled(tmp_path, CONFIG, TENSORS, dtype, old)
    expected = {name: value.astype(dtype).astype("float32") for name, value in TENSORS.items()}
    check_tensors(tmp_path, expected)
    check_tensors(tmp_path / "pytorch_model.bin", expected)


def test_a_pytorch_model_in_several_files_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    write_config(tmp_path, CONFIG)
    named, weight_map = name_tensors(TENSORS), {}
    for number in (1, 2):
        part = {key: torch.tensor(named[key]) for key in list(named)[number - 1 :: 2]}
        torch.save(part, tmp_path / f"pytorch_model-{number:05}-of-00002.bin")
        weight_map |= dict.fromkeys(part, f"pytorch_model-{number:05}-of-00002.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    check_tensors(tmp_path)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Attack:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "victim",))

    for content in ({"transformer.wte.weight": Attack()}, torch.nn.Linear(2, 2), [1], {"a": {"b": torch.ones(1)}}):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError, match=r"pytorch_model.bin: "):
            open_checkpoint(tmp_path)
    assert not (tmp_path / "victim").exists()


def test_a_tensor_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"transformer.wte.weight": torch.ones(1).expand(10**9, 10**3)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="is not a tensor that its bytes hold"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        (None, "a pickled model, which only torch can read: pip install torch, or open the folder with transformers"),
        (SimpleNamespace(__version__="2.5.1+cpu"), r"torch 2.5.1\+cpu does not read safely: pip install 'torch>=2.6'"),
    ],
)
def test_without_a_safe_torch_a_line_says_how_to_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    write_config(tmp_path, CONFIG)
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(InputError, match=words) as caught:
            open_checkpoint(path)
        assert len(str(caught.value).replace(str(tmp_path), "")) < 250


# Keras


def test_a_model_of_transformers_tf_classes_is_read(tmp_path: Path) -> None:
    write_tf_model(tmp_path / "tf_model.h5", TENSORS)
    write_config(tmp_path, CONFIG)
    check_tensors(tmp_path)
    check_tensors(tmp_path / "tf_model.h5")
    assert [path.name for path in list_sources(locate(tmp_path))] == ["tf_model.h5", "config.json"]
    assert companion_folder(locate(tmp_path)) == tmp_path


def test_a_safetensors_file_of_transformers_tf_classes_is_read(tmp_path: Path) -> None:
    write_config(tmp_path, CONFIG)
    save_file(name_tf_variables(TENSORS), tmp_path / "model.safetensors", {"format": "tf"})
    check_tensors(tmp_path)


def test_a_model_of_the_scripts_of_2019_is_read(tmp_path: Path) -> None:
    path = tmp_path / "book.h5"
    write_model_of_2019(path, CONFIG, TENSORS)
    check_tensors(path)
    assert read_config(path) == CONFIG and list_sources(path) == (path,)
    expected = GPT2(CONFIG, read=TENSORS.__getitem__)
    assert np.array_equal(load_model(path)(IDS), expected(IDS))


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (
            "Encode-0-MultiHeadAtt/Encode-0-MultiHeadAtt/Encode-0-MultiHeadAtt_Wk:0",
            "h0/attn/c_attn/w is not Wq, Wk, Wv",
        ),
        ("Encode-0-FeedForward/Encode-0-FeedForward/Encode-0-FeedForward_W1:0", "tensor h0/mlp/c_fc/w is missing"),
        ("Embed-Token-Pos", "model_config is not that of a GPT-2"),
    ],
)
def test_a_model_of_2019_without_a_variable_is_refused(tmp_path: Path, gone: str, words: str) -> None:
    import h5py

    write_model_of_2019(tmp_path / "book.h5", CONFIG, TENSORS)
    with h5py.File(tmp_path / "book.h5", "a") as file:
        del file["model_weights"][gone]
    with pytest.raises(InputError, match=words):
        open_checkpoint(tmp_path / "book.h5").check(CONFIG)


def test_weights_of_2019_alone_take_their_hyper_parameters_from_a_file(tmp_path: Path) -> None:
    import h5py

    write_model_of_2019(tmp_path / "whole.h5", CONFIG, TENSORS)
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "weights.h5", "w") as file:
        for layer in whole["model_weights"]:
            whole.copy(whole["model_weights"][layer], file, layer)
    assert read_config(tmp_path / "weights.h5") is None
    check_tensors(tmp_path / "weights.h5")


# gpt-2-simple


def test_a_run_of_gpt_2_simple_is_read_by_folder_prefix_and_file(tmp_path: Path) -> None:
    run = tmp_path / "checkpoint" / "run1"
    for step in (500, 1000, 900):  # the latest is neither the last in the alphabet nor the newest
        tensors = {name: value * step for name, value in TENSORS.items()}
        write_run_of_gpt_2_simple(run / f"model-{step}", CONFIG, tensors, latest="model-1000")
    for _ in range(2):  # the second time where a conversion was kept
        for path, step in {run: 1000, run / "model-900": 900, run / "model-500.index": 500}.items():
            check_tensors(path, {name: value * np.float32(step) for name, value in TENSORS.items()})
        assert companion_folder(run / "model-1000") == run
        (companion_folder(run / "model-1000") / ".gpt_tf2").mkdir(exist_ok=True)
    assert "model-1000" not in list_names(run)


@pytest.mark.parametrize(
    ("latest", "expected"),
    [
        ("/elsewhere/run1/model-2", "model-2"),
        (r"C:\\\\runs\\\\run1\\\\model-2", "model-2"),
        (
            "model-3",
            "checkpoint: names model-3, which is not there: give one that is, as in .*/NAME .model-1, model-2.",
        ),
        (None, "2 checkpoints: give one, as in"),
    ],
)
def test_of_several_checkpoints_the_one_that_is_named_is_read(
    tmp_path: Path, latest: str | None, expected: str
) -> None:
    for name in ("model-1", "model-2"):
        (tmp_path / f"{name}.index").touch()
    if latest:
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{latest}"\n')
    if expected.startswith("model"):
        assert locate(tmp_path) == tmp_path / expected
    else:
        with pytest.raises(InputError, match=expected):
            locate(tmp_path)


def test_other_tensors_of_a_network_are_not_left_out(tmp_path: Path) -> None:
    write_run_of_gpt_2_simple(tmp_path / "model-1", CONFIG, TENSORS | {"h0/attn/bias": TENSORS["wpe"]}, "model-1")
    with pytest.raises(InputError, match="h0/attn/bias is not part of this GPT-2"):
        open_checkpoint(tmp_path).check(CONFIG)
