"""The memory planner: what it predicts, what it chooses, and what it says when nothing fits."""

import functools
from pathlib import Path

import keras
import pytest

from gpt_tf2 import InputError
from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.config import SIZES
from gpt_tf2.training.memory import MemoryPlan, choose_plan, parse_memory, predict_bytes, predict_total
from gpt_tf2.training.state import read_run
from helpers.finetuning import change_settings

# Measured by benchmarks/memory.py: GB of a step with remat, 1 × 1024 tokens, bfloat16 (docs/performance.md).
MEASURED = {
    ("124M", "adamw"): 2.59,
    ("124M", "adafactor"): 1.80,
    ("124M", "lora"): 1.22,
    ("355M", "adafactor"): 2.83,
    ("355M", "lora"): 1.76,
    ("774M", "adafactor"): 4.60,
    ("774M", "lora"): 2.75,
    ("124M", "int8"): 1.13,
    ("1558M", "int8"): 3.07,
    ("1558M", "adafactor"): 8.06,
}


@pytest.mark.parametrize(("size", "kind"), MEASURED)
def test_predictions_are_within_15_percent_of_measurements(size: str, kind: str) -> None:
    adapters = MemoryPlan("adamw", True, 8, int8=kind == "int8")
    plan = adapters if kind in ("lora", "int8") else MemoryPlan(kind, True)
    assert predict_total(SIZES[size], plan) / 1e9 == pytest.approx(MEASURED[size, kind], rel=0.15)


def test_each_kind_grows_with_what_it_depends_on() -> None:
    size = SIZES["124M"]
    small = predict_bytes(size, MemoryPlan())
    assert predict_bytes(SIZES["355M"], MemoryPlan())["weights"] > 2 * small["weights"]
    two = predict_bytes(size, MemoryPlan(sequences=2))
    assert two["activations"] == 2 * small["activations"] - 12 * 2 * 12 * 768**2
    assert predict_bytes(size, MemoryPlan(collects=True))["gradients"] > small["gradients"]
    assert predict_bytes(size, MemoryPlan(remat=True))["activations"] < small["activations"] / 20


def test_the_first_plan_that_fits_is_chosen() -> None:
    measure, asked = functools.partial(predict_total, SIZES["774M"]), MemoryPlan()
    assert choose_plan(measure, asked, 24e9) == asked
    assert choose_plan(measure, asked, 11e9) == MemoryPlan(remat=True)
    assert choose_plan(measure, asked, 7e9, flexible=True) == MemoryPlan("adafactor", remat=True)
    assert choose_plan(measure, asked, 3.5e9, flexible=True) == MemoryPlan("adamw", True, 8)
    assert choose_plan(measure, asked, 2.3e9, flexible=True) == MemoryPlan("adamw", True, 8, int8=True)


def test_a_run_that_does_not_fit_is_refused_with_settings_that_would() -> None:
    measure, asked = functools.partial(predict_total, SIZES["774M"]), MemoryPlan()
    with pytest.raises(
        InputError, match=r"needs 10\.\d GB \(remat on, .*\), but 7\.0 GB is available: try optimizer adafactor$"
    ) as error:
        choose_plan(measure, asked, 7e9)
    assert "(--remat on, --optimizer adamw)" in error.value.on_command_line()
    assert error.value.on_command_line().endswith(": try --optimizer adafactor")
    with pytest.raises(InputError, match=r"available: try remat on$"):
        choose_plan(measure, asked, 12e9, remat="off")
    with pytest.raises(InputError, match=r"available: try lora_rank 8$"):
        choose_plan(measure, asked, 3.5e9)
    with pytest.raises(InputError, match=r"available: try lora_rank 8, base_precision int8$"):
        choose_plan(measure, asked, 2.3e9)
    with pytest.raises(InputError, match=r"try base_precision int8 and a smaller batch_size or length$"):
        choose_plan(measure, MemoryPlan(lora_rank=8), 1.9e9)
    with pytest.raises(InputError, match="use a smaller model"):
        choose_plan(measure, asked, 1e9)
    with pytest.raises(InputError, match=r"try lora_rank 8 and a smaller batch_size or length$"):
        choose_plan(measure, MemoryPlan(sequences=64), 3.5e9)
    with pytest.raises(InputError, match=r"try a smaller batch_size or length$"):
        choose_plan(measure, MemoryPlan(sequences=64, lora_rank=8), 3.5e9)


def test_lora_is_neither_chosen_nor_suggested_where_parts_are_frozen() -> None:
    measure, asked = functools.partial(predict_total, SIZES["774M"]), MemoryPlan(freezes=True)
    with pytest.raises(
        InputError, match=r"needs 4\.\d GB \(remat on, optimizer adafactor\), but 3\.5 GB .*: use a smaller"
    ):
        choose_plan(measure, asked, 3.5e9, flexible=True)


@pytest.mark.slow
def test_a_resumed_run_keeps_what_the_planner_chose(workplace: Path) -> None:
    run_finetune(change_settings(optimizer="lion", epochs=1))
    run_finetune(change_settings(epochs=2, resume=True, memory="auto"))
    assert read_run(Path("output/m/state.h5"))["--optimizer"] == "lion"


def test_sizes_are_read_as_people_write_them() -> None:
    assert parse_memory("11GB") == parse_memory("11 gb") == parse_memory("11G") == 11e9
    assert parse_memory("1.5GiB") == 1.5 * 2**30
    for wrong in ("eleven", "GB", "-3GB", "11PB", ""):
        with pytest.raises(InputError, match="use a size such as 11GB"):
            parse_memory(wrong)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX would compile ten steps of 774M")
def test_plan_prints_what_fits(capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "--model", "774M", "--memory", "11GB"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    rows = {tuple(line.split()[:3]): line for line in lines}
    assert rows["--optimizer", "adamw", "on"].endswith(" *") and rows["--optimizer", "adamw", "off"][-1].isdigit()
    assert header.split() == ["GB", "--remat", "weights", "state", "step", "total"]
    assert lines[-1] == "* fits into 11GB" and max(map(len, [header, *lines])) <= 60


def test_plan_takes_any_model(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "--model=tiny", "--length=65"]) == 2
    assert capsys.readouterr().err == "gpt-tf2 plan: --length 65: use 2 to 64\n"


def test_a_run_prints_its_plan_or_refuses_before_it_writes(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    run_finetune(change_settings(epochs=1))
    assert "training 112,560 parameters (--remat off --optimizer adamw --lr 0.001), about" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"needs \d\.\d GB .*, but 0\.1 GB is available"):
        run_finetune(change_settings(epochs=1, memory="100MB", output_name="other.h5"))
    assert not Path("output/other.h5").exists()
