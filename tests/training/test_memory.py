"""What fits into a memory, told before a run starts."""

from pathlib import Path

import pytest

from gpt_tf2 import InputError, finetune
from gpt_tf2.cli import main
from gpt_tf2.config import SIZES
from gpt_tf2.training.memory import Way, choose, parse_memory, predict, total
from helpers.finetuning import change

# Measured by benchmarks/memory.py: GB of a step with remat, 1 × 1024 tokens, bfloat16 (docs/performance.md).
MEASURED = {
    ("124M", "adamw"): 2.59,
    ("124M", "adafactor"): 1.80,
    ("124M", "lora"): 1.22,
    ("355M", "adafactor"): 2.83,
    ("355M", "lora"): 1.76,
    ("774M", "adafactor"): 4.60,
    ("774M", "lora"): 2.75,
    ("1558M", "adafactor"): 8.06,
}


@pytest.mark.parametrize(("size", "kind"), MEASURED)
def test_the_prediction_is_near_what_was_measured(size: str, kind: str) -> None:
    way = Way("adamw", True, 8) if kind == "lora" else Way(kind, True)
    assert total(SIZES[size], way) / 1e9 == pytest.approx(MEASURED[size, kind], rel=0.15)


def test_every_kind_grows_with_what_it_depends_on() -> None:
    small = predict(SIZES["124M"], Way())
    assert predict(SIZES["355M"], Way())["weights"] > 2 * small["weights"]
    assert predict(SIZES["124M"], Way(rows=2))["activations"] == 2 * small["activations"] - 12 * 2 * 12 * 768**2
    assert predict(SIZES["124M"], Way(gathers=True))["gradients"] > small["gradients"]
    assert predict(SIZES["124M"], Way(remat=True))["activations"] < small["activations"] / 20


def test_the_first_way_that_fits_is_chosen() -> None:
    size, asked = SIZES["774M"], Way()
    assert choose(size, asked, 24e9) == asked
    assert choose(size, asked, 11e9) == Way(remat=True)
    assert choose(size, asked, 7e9, free=True) == Way("adafactor", remat=True)
    assert choose(size, asked, 3.5e9, free=True) == Way("adamw", True, 8)
    with pytest.raises(
        InputError, match=r"10\.\d GB are needed .*, 7\.0 GB are there: give --remat on --optimizer ada"
    ):
        choose(size, asked, 7e9)
    with pytest.raises(InputError, match=r"there: give --remat on --optimizer adamw"):
        choose(size, asked, 12e9, remat="off")
    with pytest.raises(InputError, match="take a smaller --model"):
        choose(size, asked, 1e9)


def test_sizes_are_read_as_people_write_them() -> None:
    assert parse_memory("11GB") == parse_memory("11 gb") == parse_memory("11G") == 11e9
    assert parse_memory("1.5GiB") == 1.5 * 2**30
    for wrong in ("eleven", "GB", "-3GB", "11PB", ""):
        with pytest.raises(InputError, match="give a size as 11GB"):
            parse_memory(wrong)


def test_plan_prints_what_fits(capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "--model", "774M", "--memory", "11GB"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("--remat on --optimizer adamw" in line and line.endswith("  fits") for line in lines)
    assert any("--remat off --optimizer adamw" in line and line.endswith("  too much") for line in lines)
    assert "weights" in lines[0] and "optimizer" in lines[0]


def test_a_run_says_what_it_chose_or_that_it_will_not_fit(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    finetune(change(num_epoch=1))
    assert "--remat off --optimizer adamw: 112,560 parameters are trained" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"0\.8 GB are needed .*, 0\.1 GB are there"):
        finetune(change(num_epoch=1, memory="100MB", output_name="other.h5"))
    assert not Path("output/other.h5").exists()
