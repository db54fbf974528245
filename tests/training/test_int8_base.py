"""LoRA on matrices held in int8: the numbers, against a float32 network of the same rounded matrices, and whole runs.

Runs on either backend.
"""

from pathlib import Path

import keras
import numpy as np
import pytest

from gpt_tf2 import GPT2, GPT2Config, InputError, save_model
from gpt_tf2.backend.int8 import quantize
from gpt_tf2.checkpoints.formats import open_adapters
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import finetune, run_finetune
from gpt_tf2.commands.run import Call
from gpt_tf2.config import MATRICES, adapter_shapes
from gpt_tf2.data.batches import Batch, whole_rows
from gpt_tf2.model import random_tensors
from gpt_tf2.training.blockwise import BlockwiseModel
from helpers.finetuning import are_identical, change_settings, read_hdf5
from helpers.gradients import compute_gradients

SMALL = GPT2Config(n_vocab=61, n_ctx=16, n_embd=12, n_head=3, n_layer=2)
ADAPTERS = adapter_shapes(SMALL, rank=2)
INT8 = {"lora_rank": 4, "lr": 0.01, "precision": "float32", "base_precision": "int8"}
read_random = random_tensors(SMALL, seed=1, std=0.2)


def read_rounded(name: str) -> np.ndarray:
    """The tensors of the random network, their blocks' matrices rounded by the definition, in float64."""
    values = read_random(name)
    if not name.endswith("/w"):
        return values
    scale = np.abs(values.astype("float64")).max(axis=0) / 127
    return (np.round(values / scale) * scale).astype("float32")


def make_pair(dtype: str = "float32") -> tuple[GPT2, GPT2]:
    """A network in int8, and one of the same rounded matrices in float32, with the same adapters."""
    pair = GPT2(SMALL, read=read_random, dtype=dtype, int8=True), GPT2(SMALL, read=read_rounded)
    draw = np.random.default_rng(0)
    for name, shape in ADAPTERS.items():
        values = draw.standard_normal(shape).astype("float32") / 5
        for network in pair:
            network.add(name, shape, lambda values=values: values, "float32")
    return pair


def make_batch() -> Batch:
    return whole_rows(np.random.default_rng(2).integers(0, 61, (3, 16)).astype("int32"))


def test_rounding_is_within_half_a_step_of_each_output() -> None:
    w = np.random.default_rng(0).standard_normal((40, 7)).astype("float32") * np.logspace(-6, 3, 7, dtype="float32")
    w[:, 3] = 0
    rounded, scale = quantize(w)
    assert rounded.dtype == "int8" and scale.dtype == "float32" and scale.shape == (7,)
    assert (np.abs(rounded * scale - w) <= scale * 0.50001).all()
    assert (np.abs(np.delete(rounded, 3, axis=1)).max(axis=0) == 127).all() and not rounded[:, 3].any()


def test_only_the_blocks_matrices_are_in_int8_and_none_is_trainable() -> None:
    network, _ = make_pair("bfloat16")
    held = {name: v.dtype for name, v in network.tensors().items()}
    assert {name for name in held if held[name] == "int8"} == {f"h{i}/{m}/w" for i in (0, 1) for m in MATRICES}
    assert {name for name in held if held[name] == "bfloat16"} == {"wte", "wpe"}
    assert not any("int8" in (v.dtype, v.name) or v.name.endswith("w_scale") for v in network.trainable_variables)


@pytest.mark.parametrize("remat", [False, True])
def test_loss_and_gradients_equal_those_of_the_rounded_matrices(remat: bool) -> None:
    (loss, gradients), (expected_loss, expected) = (
        compute_gradients(BlockwiseModel(network, ADAPTERS, remat), make_batch()) for network in make_pair()
    )
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert gradients.keys() == expected.keys() == ADAPTERS.keys()
    for name, gradient in gradients.items():
        assert np.linalg.norm(gradient - expected[name]) < 1e-5 * np.linalg.norm(expected[name]) > 0, name


def test_it_computes_in_half_precision() -> None:
    for dtype in ("bfloat16", "float16"):
        loss, expected = (float(BlockwiseModel(network, ()).loss(make_batch())) for network in make_pair(dtype))
        assert loss == pytest.approx(expected, rel=0.005) and loss != expected


def test_keras_saves_the_network_and_a_checkpoint_refuses_it(tmp_path: Path) -> None:
    network, _ = make_pair()
    network.save(tmp_path / "n.keras")
    again = keras.saving.load_model(tmp_path / "n.keras")
    ids = make_batch().tokens
    np.testing.assert_array_equal(again(ids), network(ids))
    with pytest.raises(
        InputError, match=r"rounded to int8: .*, or train with precision float32 without base_precision"
    ):
        save_model(network, tmp_path / "m.h5")


def test_a_run_learns_and_saves_adapters_of_the_exact_base(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    run_finetune(change_settings(**INT8))
    assert "--lora_rank 4 --base_precision int8 --lr 0.01" in capsys.readouterr().out
    state, adapters = read_hdf5(Path("output/m/state.h5")), open_adapters(Path("output/m.h5"))
    assert state["losses"][-1] < state["losses"][0] - 0.3
    assert adapters is not None and set(adapters.shapes) == {
        name.removeprefix("model/") for name in state if name.startswith("model/")
    }
    assert main(["merge", "output/m.h5", "merged.h5"]) == 0  # refused if the base's digests were not the file's


@pytest.mark.slow
def test_a_run_resumes_exactly_with_samples_between_its_steps(workplace: Path) -> None:
    run_finetune(change_settings(**INT8, remat="on", output_name="whole.h5"))
    run_finetune(change_settings(**INT8, remat="on", epochs=1, sample_every=3))
    run_finetune(change_settings(**INT8, resume=True, memory="8GB"))
    assert are_identical(read_hdf5(Path("output/whole/state.h5")), read_hdf5(Path("output/m/state.h5")))


@pytest.mark.slow
def test_a_program_gets_the_network_in_int8(workplace: Path) -> None:
    settings = change_settings(**INT8, epochs=1, steps=1)
    _, trainer, history = finetune(settings, Call(is_shown=False, is_written=False))
    network = trainer.model
    assert network.int8 and len(history.losses) == 1
    whole = network.generate(np.array([[5, 6, 7]]), max_new_tokens=5, temperature=0.0)
    logits = np.asarray(network(whole[:, :-1]))
    assert whole[0, 3:].tolist() == logits[0, 2:].argmax(axis=-1).tolist()


def test_all_weights_cannot_be_trained_in_int8() -> None:
    with pytest.raises(InputError, match=r"^base_precision=int8: holds weights that are not trained: give lora_rank"):
        change_settings(base_precision="int8")
