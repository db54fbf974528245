"""LoRA in peft's format, against peft: what it writes we read, and what we write it loads, with equal logits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_tf2 import InputError, load_model
from gpt_tf2.checkpoints import adapters, hdf5, huggingface, peft
from gpt_tf2.checkpoints.formats import locate, open_adapters, open_checkpoint
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.cli import main
from gpt_tf2.config import SIZES, GPT2Config, adapter_shapes, tensor_shapes
from helpers.fuzzing import describe_base, random_tensors
from helpers.workplace import OPENAI_TINY

CONFIG = GPT2Config(n_vocab=61, n_ctx=16, n_embd=12, n_head=3, n_layer=3)
TENSORS = {name: values / 3 for name, values in random_tensors(tensor_shapes(CONFIG)).items()}
FACTORS = {name: values / 3 for name, values in random_tensors(adapter_shapes(CONFIG, 2)).items()}
TOKENS = np.arange(0, 60, 5)[None]
BLOCK_MATRICES = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model `hf` that transformers opens."""
    monkeypatch.chdir(tmp_path)
    huggingface.write(Path("hf/model.safetensors"), CONFIG, TENSORS)
    return tmp_path


def write_adapters(path: Path, base: str, alpha: float | None = None) -> None:
    """Adapters in our words at `path`, in the format of its name."""
    write = peft.write if path.name == peft.FILE else adapters.write
    write(path, CONFIG, describe_base(open_checkpoint(base)), FACTORS, alpha)


def change_settings(folder: Path, **changes: Any) -> None:
    """Changes an `adapter_config.json`."""
    path = folder / peft.SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def make_with_peft(folder: str, **settings: Any) -> np.ndarray:
    """Adapters that peft writes, with random factors; returns the logits that it computes."""
    torch, transformers, library = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel.from_pretrained("hf")
    network = library.get_peft_model(network, library.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(folder)
    with torch.no_grad():
        return network(torch.tensor(TOKENS)).logits.numpy()


PATTERNS = {"rank_pattern": {"h.1.attn.c_attn": 5, "mlp.*": 2}, "alpha_pattern": {"^transformer.h.0.mlp.c_fc": 1.5}}


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4},
        {"r": 4, "lora_alpha": 32, "target_modules": BLOCK_MATRICES, "fan_in_fan_out": True},
        {"r": 3, "lora_alpha": 7, "use_rslora": True, "target_modules": "all-linear"},
        {"r": 3, "target_modules": r".*\.(0|2)\.mlp\.c_(fc|proj)"},
        {"r": 4, "target_modules": ["c_attn", "c_fc"], "layers_to_transform": [1], "init_lora_weights": "gaussian"},
        {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True, **PATTERNS},
    ],
    ids=["default", "alpha", "rslora", "regex", "layers", "patterns"],
)
def test_what_peft_writes_has_its_logits(base: Path, settings: dict[str, Any]) -> None:
    expected = make_with_peft("style", **settings)
    unadapted = np.asarray(load_model("hf")(TOKENS))
    assert np.abs(expected - unadapted).max() > 1e-2
    np.testing.assert_allclose(np.asarray(load_model("style")(TOKENS)), expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [None, 5.5, 16])
def test_what_we_write_has_our_logits_in_peft(base: Path, alpha: float | None) -> None:
    torch, transformers, library = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    write_adapters(Path("style") / peft.FILE, "hf", alpha)
    expected = np.asarray(load_model("style")(TOKENS))
    network = transformers.GPT2LMHeadModel.from_pretrained("hf")
    by_hand = library.PeftModel.from_pretrained(network, "style").eval()
    by_name = library.AutoPeftModelForCausalLM.from_pretrained("style").eval()
    for model in (by_hand, by_name, by_hand.merge_and_unload()):
        with torch.no_grad():
            np.testing.assert_allclose(model(torch.tensor(TOKENS)).logits.numpy(), expected, atol=1e-5)
    write_adapters(Path("style.h5"), "hf", alpha)
    assert np.array_equal(np.asarray(load_model("style.h5")(TOKENS)), expected)


def test_a_pissa_start_is_refused_because_peft_changes_the_base(base: Path) -> None:
    make_with_peft("style", r=2, init_lora_weights="pissa")
    with pytest.raises(InputError, match="init_lora_weights is 'pissa', a start that changes the base model"):
        open_checkpoint("style")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', but gpt-tf2 reads LORA alone"),
        ({"use_dora": True}, "use_dora is True, DoRA, which gpt-tf2 does not read: merge them with peft"),
        ({"bias": "lora_only"}, "bias is 'lora_only', trained biases"),
        ({"modules_to_save": ["wte"]}, r"modules_to_save is \['wte'\], modules trained whole"),
        ({"lora_bias": True}, "lora_bias is True, factors with a bias"),
        ({"alora_invocation_tokens": [1]}, r"alora_invocation_tokens is \[1\], more than plain LoRA"),
        ({"r": 3}, "the rank of transformer.h.0.attn.c_attn is 3, but its factors have 2"),
        ({"rank_pattern": {"h.1.mlp.c_fc": 9}}, "the rank of transformer.h.1.mlp.c_fc is 9"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', not a number"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern: '\(' is no regular expression"),
        ({"alpha_pattern": {"(a+)+b": 1}}, r"alpha_pattern: '\(a\+\)\+b' may take long to match"),
        ({"alpha_pattern": [1]}, "alpha_pattern is not a JSON object"),
        ({"base_model_name_or_path": 1}, "base_model_name_or_path is 1"),
        ({"base_model_name_or_path": "a\0"}, "base_model_name_or_path is"),
    ],
)
def test_other_kinds_and_malformed_settings_are_refused(base: Path, settings: dict[str, Any], message: str) -> None:
    write_adapters(Path("style") / peft.FILE, "hf")
    open_checkpoint("style")
    change_settings(Path("style"), **settings)
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint("style")
    assert peft.SETTINGS in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_that_are_no_factors_are_refused(base: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_adapters(Path("style") / peft.FILE, "hf")
    tensors = load_file(Path("style") / peft.FILE)
    for name in ("base_model.model.transformer.wte.weight", "base_model.model.lm_head.lora_A.weight"):
        save_file(tensors | {name: np.zeros((2, 2), "float32")}, Path("style") / peft.FILE)
        with pytest.raises(InputError, match=rf"tensor {name} is no LoRA factor"):
            open_checkpoint("style")
    name = peft.peft_name("h0/attn/c_attn/lora_a")
    save_file(tensors | {name: tensors[name].astype("int32")}, Path("style") / peft.FILE)
    with pytest.raises(InputError, match="is I32: save it as float32"):
        open_checkpoint("style")
    del tensors[name]
    save_file(tensors, Path("style") / peft.FILE)
    with pytest.raises(InputError, match="adapter h0/attn/c_attn/lora_b does not fit the model"):
        open_checkpoint("style")


def test_pickled_adapters_of_earlier_versions_are_read(base: Path) -> None:
    torch = pytest.importorskip("torch")
    write_adapters(Path("style") / peft.FILE, "hf", alpha=6)
    expected = open_checkpoint("style").read("h1/mlp/c_fc/w")
    tensors = {peft.peft_name(name): torch.tensor(values.T.copy()) for name, values in FACTORS.items()}
    torch.save(tensors, "style/adapter_model.bin")
    (Path("style") / peft.FILE).unlink()
    assert np.array_equal(open_checkpoint("style").read("h1/mlp/c_fc/w"), expected)


def test_half_precision_and_a_compiled_models_prefix_are_read(base: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_adapters(Path("style") / peft.FILE, "hf")
    renamed = {
        key.replace("transformer.", "_orig_mod.transformer."): value.astype("float16")
        for key, value in load_file(Path("style") / peft.FILE).items()
    }
    save_file(renamed, Path("style") / peft.FILE)
    read = open_adapters(locate("style"))
    assert read and read.shapes == {name: values.shape for name, values in FACTORS.items()}
    for name, values in FACTORS.items():
        assert read.read(name).dtype == "float32" and np.array_equal(read.read(name), values.astype("float16"))


def strip_notes(folder: Path) -> None:
    """Leaves of adapters what peft itself would write."""
    from safetensors.numpy import load_file, save_file

    save_file(load_file(folder / peft.FILE), folder / peft.FILE)


def test_the_base_is_found_from_the_adapters_then_from_the_working_folder(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapters(Path("runs/style") / peft.FILE, "hf")
    strip_notes(Path("runs/style"))
    expected = open_checkpoint("runs/style").read("h0/attn/c_attn/w")
    shutil.copytree("runs", "elsewhere/runs")
    monkeypatch.chdir("elsewhere")
    with pytest.raises(
        InputError,
        match=r"holds adapters of hf, which cannot be opened: hf: no such .*, or give it as base",
    ):
        open_checkpoint("runs/style")
    assert np.array_equal(open_checkpoint("runs/style", base=Path("../hf")).read("h0/attn/c_attn/w"), expected)
    change_settings(Path("runs/style"), base_model_name_or_path="../../../hf")
    assert np.array_equal(open_checkpoint("runs/style").read("h0/attn/c_attn/w"), expected)
    change_settings(Path("runs/style"), base_model_name_or_path=None)
    with pytest.raises(InputError, match=r"holds adapters of a model, .*: the adapters do not name it: give it as"):
        open_checkpoint("runs/style")
    for name in ("/", ".."):
        change_settings(Path("runs/style"), base_model_name_or_path=name)
        with pytest.raises(InputError, match="holds adapters of"):
            open_checkpoint("runs/style")


def test_adapters_of_each_other_are_refused(base: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        write_adapters(Path(name) / peft.FILE, "hf")
        strip_notes(Path(name))
        change_settings(Path(name), base_model_name_or_path=other)
    for act in (load_model, open_model, open_checkpoint):
        with pytest.raises(InputError, match="adapters of themselves: put the model there that they were made for"):
            act("one")


@pytest.mark.parametrize("name", ["gpt2-medium", "openai-community/gpt2-medium"])
def test_a_released_model_is_known_by_its_name_at_hugging_face(base: Path, name: str) -> None:
    write_adapters(Path("style") / peft.FILE, "hf")
    strip_notes(Path("style"))
    change_settings(Path("style"), base_model_name_or_path=name)
    read = open_adapters(locate("style"))
    assert read and read.bases == (f"style/{name}", name, "355M/model.ckpt") and not read.knows_base
    shutil.copytree("hf", "models/355M")
    assert open_checkpoint("style").shapes == tensor_shapes(CONFIG)


def test_a_released_base_that_is_missing_is_known(base: Path, capsys: pytest.CaptureFixture) -> None:
    write_adapters(Path("style") / peft.FILE, "hf")
    strip_notes(Path("style"))
    change_settings(Path("style"), base_model_name_or_path="gpt2-xl")
    assert main(["generate", "--model=style", "--offline", "--prompt=The"]) == 2
    assert "--offline: 1558M is not on this machine: run gpt-tf2 download 1558M" in capsys.readouterr().err
    assert main(["merge", "style", "x.h5", "--offline"]) == 2
    assert "--offline: 1558M is not on this machine: run gpt-tf2 download 1558M" in capsys.readouterr().err


def test_the_name_of_the_base_is_that_of_transformers() -> None:
    assert peft.name_base(Path("models/1558M/model.ckpt"), SIZES["1558M"]) == "openai-community/gpt2-xl"
    assert peft.name_base(Path("models/1558M/model.ckpt"), CONFIG) == "models/1558M/model.ckpt"
    assert peft.name_base(Path("models/mine/model.safetensors"), CONFIG) == "models/mine"


def test_our_own_know_their_base_and_others_say_that_they_do_not(base: Path) -> None:
    hdf5.write(Path("other.h5"), CONFIG, TENSORS | {"wte": TENSORS["wte"] + 1})
    write_adapters(Path("style") / peft.FILE, "hf")
    with pytest.raises(InputError, match=r"made for another model than the one now at other\.h5: put .* as base"):
        open_checkpoint("style", base=Path("other.h5")).read("wte")
    strip_notes(Path("style"))
    assert np.array_equal(open_checkpoint("style", base=Path("other.h5")).read("wte"), TENSORS["wte"] + 1)


@pytest.mark.parametrize("change", [strip_notes, lambda folder: None], ids=["peft's", "ours"])
def test_vocabulary_and_hyper_parameters_are_those_of_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OPENAI_TINY, "models/tiny")
    model = open_model("models/tiny")
    described = describe_base(model.checkpoint, model.tokenizer.digest)
    factors = random_tensors(adapter_shapes(model.config, 1))
    peft.write(Path("style") / peft.FILE, model.config, described, factors)
    change(Path("style"))
    opened = open_model("style")
    assert opened.config == model.config and opened.tokenizer.digest == model.tokenizer.digest
    unknown = "style/adapter_model.safetensors: these adapters keep no digest of their model, so models/tiny/model.ckpt"
    assert opened.remark == (f"{unknown} could not be checked" if change is strip_notes else "")
    with pytest.raises(InputError, match="holds no adapters, which alone have a base: leave it out"):
        open_model("models/tiny", base=Path("style"))
