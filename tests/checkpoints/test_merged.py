"""A network with adapters, saved as a checkpoint. Runs on either backend."""

from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import GPT2, GPT2Config, InputError, load_model, save_model
from gpt_tf2.checkpoints.formats import write_checkpoint
from gpt_tf2.config import adapter_shapes
from gpt_tf2.training.lora import add_adapters

SMALL = GPT2Config(n_vocab=50, n_ctx=16, n_embd=16, n_head=2, n_layer=1)
IDS = np.arange(16)[None]


def adapted_model(dtype: str = "float32", alpha: float | None = None) -> GPT2:
    """A network with adapters that change what it computes."""
    model = GPT2(SMALL, dtype=dtype)
    add_adapters(model, adapter_shapes(SMALL, rank=2), alpha=alpha)
    for name, variable in model.tensors().items():
        if name.endswith("lora_b"):
            variable.assign(np.ones(variable.shape))
    return model


@pytest.mark.parametrize("name", ["m.h5", "m.safetensors", "m.ckpt"])
def test_what_is_saved_computes_what_the_adapted_network_computes(name: str, tmp_path: Path) -> None:
    model = adapted_model(alpha=3 if name == "m.h5" else None)
    save_model(model, tmp_path / name)
    expected = np.asarray(model(IDS))
    np.testing.assert_allclose(load_model(tmp_path / name)(IDS), expected, atol=1e-5)
    assert np.abs(expected - np.asarray(GPT2(SMALL)(IDS))).max() > 0.1


def test_adapters_are_not_merged_into_rounded_matrices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapters on matrices that are rounded to bfloat16: give finetune an output"):
        save_model(adapted_model("bfloat16"), tmp_path / "m.h5")
    assert not list(tmp_path.iterdir())
    save_model(
        GPT2(SMALL, dtype="bfloat16"), tmp_path / "m.h5"
    )  # without adapters, what is stored is what was asked for
    assert load_model(tmp_path / "m.h5").config == SMALL


def test_other_tensors_than_gpt2s_are_refused(tmp_path: Path) -> None:
    model = GPT2(SMALL)
    model.add("h0/extra", (2,), lambda: np.zeros(2, "float32"), "float32")
    with pytest.raises(
        InputError, match=r"h0/extra: not part of a checkpoint of GPT-2: save the network with model\.save"
    ):
        save_model(model, tmp_path / "m.h5")
    for name in ("m.h5", "m.safetensors", "m.ckpt"):
        with pytest.raises(ValueError, match="not the tensors of a GPT-2: h0/extra"):
            write_checkpoint(tmp_path / name, SMALL, model.tensors())
    assert not list(tmp_path.iterdir())
