"""The planner on JAX against XLA's own figure for the step that runs, and against the arrays that a run holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from gpt_tf2 import InputError
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import build, run_finetune
from gpt_tf2.commands.run import resolve
from gpt_tf2.config import GPT2Config, adapter_shapes
from gpt_tf2.data.batches import whole_rows
from gpt_tf2.training import memory
from gpt_tf2.training.devices import ONE_DEVICE
from gpt_tf2.training.optimizers import make_optimizer
from helpers.finetuning import change_settings
from helpers.workplace import list_names

if keras.backend.backend() != "jax":
    pytest.skip("on TensorFlow the planner predicts", allow_module_level=True)

import jax

from gpt_tf2.training import step_memory
from gpt_tf2.training.compiled_step import StepGraph

BATCH = {"dropout": 0.0, "length": 64, "batch_size": 8}


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """The names of the functions that JAX compiles while a test runs."""
    names: list[str] = []

    def note(event: str, seconds: float, fun_name: str = "", **details: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What the planner measures while a test runs."""
    found: list[dict[str, float]] = []
    measure = step_memory.measure_bytes

    def note(*arguments: Any) -> dict[str, float]:
        found.append(measure(*arguments))
        return found[-1]

    monkeypatch.setattr(step_memory, "measure_bytes", note)
    return found


def list_steps() -> list[Any]:
    """The compiled steps of this process."""
    executables = jax.local_devices()[0].client.live_executables()
    return [executable for executable in executables if executable.hlo_modules()[0].name == "jit_step"]


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.01},
        {"remat": "on"},
        pytest.param({"accumulate": 4}, marks=pytest.mark.slow),
        pytest.param({"clip_norm": 0.5, "optimizer": "adafactor"}, marks=pytest.mark.slow),
        {"lora_rank": 4, "precision": "bfloat16", "base_precision": "int8"},
        {"shard": True, "lr_schedule": "cosine"},
    ],
    ids=str,
)
def test_the_planner_says_what_xla_says_of_the_step_that_runs(
    workplace: Path, compiled: list[str], measured: list[dict[str, float]], options: dict
) -> None:
    steps = list_steps()
    run = resolve(change_settings(**BATCH, **options))
    _, trainer, _ = build(run)
    assert compiled.count("jit(step)") == 1
    trainer.step(run.training.batch(0, 0, 8), 1e-3)
    assert compiled.count("jit(step)") == 1  # what was measured is what runs
    (step,) = (each for each in list_steps() if each not in steps)
    stats = step.get_compiled_memory_stats()
    figure = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    figure += stats.temp_size_in_bytes
    (sizes,) = measured
    assert sum(sizes.values()) == pytest.approx(figure, rel=0.05)

    def count_held(tensors: list[keras.Variable]) -> int:
        return sum(tensor.value.addressable_shards[0].data.nbytes for tensor in tensors)

    assert sizes["weights"] == count_held(list(trainer.model.tensors().values()))
    assert sizes["optimizer"] == count_held([tensor for state in trainer.optimizer_state.values() for tensor in state])


@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_keeps_no_matrix_that_it_has_dequantized(remat: bool) -> None:
    config = GPT2Config(n_vocab=50, n_ctx=16, n_embd=128, n_head=2, n_layer=4)
    trained, matrices = adapter_shapes(config, rank=1), 4 * 4 * 12 * 128**2  # bytes in float32
    optimizer = make_optimizer("adamw", 0.0)
    graph = StepGraph(config, "float32", 0.0, optimizer, frozenset(trained), remat, 0.0, ONE_DEVICE)
    batch = whole_rows(np.zeros((2, 16), "int32"))  # as micro-batches, in a loop
    sizes = step_memory.measure_bytes(graph, trained, "float32", batch, accumulate=2, int8=True)
    assert sizes["weights"] < matrices / 2
    assert sizes["work"] < matrices / 2


def test_the_planner_takes_the_first_plan_that_xla_says_fits(
    workplace: Path, measured: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_tf2.commands.measured_plan.measure_libraries", lambda: 0.0)
    for optimizer in ("adamw", "adafactor"):
        resolve(change_settings(**BATCH, remat="on", optimizer=optimizer))
    adamw, adafactor = (sum(sizes.values()) for sizes in measured)
    assert adafactor < adamw
    for limit, optimizer in ((adamw, "adamw"), (adamw - 1000, "adafactor")):
        run = resolve(change_settings(**BATCH, remat="on", memory=f"{limit / 1e3:.3f}KB"))
        assert run.settings.optimizer == optimizer
        assert run.step_bytes <= limit


def test_a_plan_whose_weights_alone_are_too_large_is_refused_without_compiling(
    workplace: Path, compiled: list[str]
) -> None:
    with pytest.raises(InputError, match=r"but 0\.0 GB is available: use a smaller model"):
        run_finetune(change_settings(**BATCH, memory="100KB"))
    assert "jit(step)" not in compiled and list_names(workplace) == ["models", "story.txt"]


@pytest.mark.slow
def test_plan_lists_what_xla_says(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    # The process that runs the tests has grown by the tests before this one.
    monkeypatch.setattr("gpt_tf2.commands.measured_plan.measure_libraries", lambda: 0.5e9)
    assert main(["plan", "--length=64", "--memory=3GB"]) == 0
    _, *rows, _, _, _ = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 * len(memory.STATE_PER_WEIGHT) + 4
    assert rows[-1].startswith("--base_precision int8") and rows[-1].endswith(" *")
