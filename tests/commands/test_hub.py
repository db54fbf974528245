"""Models on the hub, `hf://owner/name`: fetched from a fake of it, kept in the cache, and refused in one line."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.checkpoints.opened import open_model
from gpt_tf2.cli import main
from gpt_tf2.commands.find_model import find_model_path, find_on_machine
from gpt_tf2.errors import InputError
from helpers.exporting import write_wide_model
from helpers.fake_hub import FakeHub, fake_hub
from helpers.markers import skip_on_jax

pytestmark = skip_on_jax  # nothing here runs a network
FETCHED = ["config.json", "encoder.json", "generation_config.json", "model.safetensors", "vocab.bpe"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the model `ada/boats`, which is also the folder `boats` in the current one."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    with fake_hub(tmp_path / "cache") as hub:
        hub.add_folder("ada/boats", write_wide_model(tmp_path / "boats"))
        yield hub


def read_wte(path: Path) -> np.ndarray:
    return open_checkpoint(path).read("wte")


def test_a_model_is_fetched_once_and_stdout_holds_none_of_it(hub: FakeHub, capfd: pytest.CaptureFixture) -> None:
    files = {"pytorch_model.bin": b"a pickle", "onnx/model.safetensors": b"another", "README.md": b"# Boats"}
    hub.commit("ada/boats", files | {path.name: path.read_bytes() for path in Path("boats").iterdir()})
    path = find_model_path("hf://ada/boats")
    assert np.array_equal(read_wte(path), read_wte(Path("boats")))
    assert open_model(path).tokenizer.n_vocab == 512
    assert hub.list_fetched() == FETCHED
    out, err = capfd.readouterr()
    assert not out and err.startswith("downloading hf://ada/boats to ") and "5/5" in err
    assert find_model_path("hf://ada/boats") == path == find_on_machine("hf://ada/boats")
    assert hub.list_fetched() == FETCHED and capfd.readouterr().err == ""


def test_the_newest_is_fetched_or_the_revision_that_is_named(hub: FakeHub) -> None:
    before = find_model_path("hf://ada/boats")
    first = before.parent.name
    hub.add_folder("ada/boats", write_wide_model(Path("newer"), std=0.1))
    hub.refs["ada/boats"]["v1"] = first
    after = find_model_path("hf://ada/boats")
    assert np.array_equal(read_wte(after), read_wte(Path("newer")))
    assert np.array_equal(read_wte(find_model_path("hf://ada/boats@v1")), read_wte(Path("boats")))
    asked = len(hub.asked)
    assert find_model_path(f"hf://ada/boats@{first}") == before
    assert len(hub.asked) == asked  # a commit never changes


def test_a_model_in_several_files(hub: FakeHub) -> None:
    from safetensors.numpy import load_file, save

    tensors = load_file("boats/model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    files = {name: save({key: tensors[key] for key in keys}) for name, keys in parts.items()}
    places = {key: name for name, keys in parts.items() for key in keys}
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": places}).encode()
    files |= {name: Path("boats", name).read_bytes() for name in ("config.json", "encoder.json", "vocab.bpe")}
    hub.commit("ada/parts", files)
    opened, whole = open_model(find_model_path("hf://ada/parts")).checkpoint, open_checkpoint("boats")
    assert opened.shapes == whole.shapes
    assert all(np.array_equal(opened.read(name), whole.read(name)) for name in whole.shapes)


def test_offline_the_cache_is_asked_alone(hub: FakeHub, capfd: pytest.CaptureFixture) -> None:
    assert main(["generate", "--model=hf://ada/boats", "--offline"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("gpt-tf2 generate: --offline: hf://ada/boats is not in ") and err.count("\n") == 1
    path = find_model_path("hf://ada/boats")
    asked = len(hub.asked)
    assert find_model_path("hf://ada/boats", offline=True) == path and len(hub.asked) == asked
    path.unlink()  # as a download that was broken off leaves it
    assert find_on_machine("hf://ada/boats") is None
    with pytest.raises(InputError, match="is not in"):
        find_model_path("hf://ada/boats", offline=True)
    assert find_model_path("hf://ada/boats") == path


def test_without_a_network_the_cache_serves_and_a_line_says_so(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = find_model_path("hf://ada/boats")
    capfd.readouterr()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")  # where nobody answers
    assert find_model_path("hf://ada/boats") == path
    err = capfd.readouterr().err
    assert err.startswith("hf://ada/boats: the hub cannot be reached (") and err.count("\n") == 1
    assert err.endswith(f"): taking {path.parent.name[:7]} from the cache\n")
    assert main(["generate", "--model=hf://ada/other"]) == 2
    err = capfd.readouterr().err
    assert "hf://ada/other: cannot be fetched from http://127.0.0.1:1 (" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "model, problem",
    [
        ("hf://ada/none", "no such model, or a private one: check the name, or set HF_TOKEN"),
        ("hf://ada/gated", "is gated: accept its terms at http"),
        ("hf://ada/boats@v9", "no such revision: see http"),
        ("hf://ada/pickle", "has pytorch_model.bin, but no model.safetensors: it is a pickle"),
        ("hf://ada/empty", "has no model.safetensors: give another model"),
        ("hf://boats", "not a name on the hub: give hf://owner/name or hf://owner/name@revision"),
        ("hf://ada/..", "not a name on the hub: give hf://owner/name or hf://owner/name@revision"),
    ],
)
def test_bad_names_are_one_line(model: str, problem: str, hub: FakeHub, capfd: pytest.CaptureFixture) -> None:
    hub.commit("ada/pickle", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
    hub.commit("ada/empty", {"README.md": b"# Nothing"})
    hub.commit("ada/gated", {})
    hub.gated.add("ada/gated")
    assert main(["generate", f"--model={model}"]) == 2
    out, err = capfd.readouterr()
    assert not out and err.startswith(f"gpt-tf2 generate: {model}: {problem}") and err.count("\n") == 1
    assert hub.list_fetched() == []


def test_adapters_and_their_base_may_both_be_on_the_hub(hub: FakeHub, capfd: pytest.CaptureFixture) -> None:
    from safetensors.numpy import save

    prefix = "base_model.model.transformer.h.0.attn.c_attn.lora"
    factors = {f"{prefix}_A.weight": np.ones((1, 64), "float32"), f"{prefix}_B.weight": np.ones((192, 1), "float32")}
    about = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "ada/boats", "bias": "none"}
    about |= {"fan_in_fan_out": True, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM"}
    files = {"adapter_model.safetensors": save(factors), "adapter_config.json": json.dumps(about).encode()}
    hub.commit("ada/tuned", files)
    merge = ["merge", "hf://ada/tuned", "merged/model.safetensors"]
    assert main(merge) == 2 and "give it as --base" in capfd.readouterr().err
    assert main([*merge, "--base=hf://ada/boats"]) == 0
    name = "h0/attn/c_attn/w"
    difference = open_checkpoint("merged").read(name) - open_checkpoint("boats").read(name)
    assert np.allclose(difference, 1, atol=1e-6)


def test_what_is_made_from_a_model_has_its_name_without_owner_and_revision(hub: FakeHub) -> None:
    from gpt_tf2.commands.export import FORMATS, name_output

    assert name_output("hf://ada/boats@v1", FORMATS["hf"], "float32") == Path("output/boats-hf")
