"""Recipes: those that come with the project, and the one that a run writes."""

import os
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.parsing import parse
from gpt_tf2.commands.recipes import read_recipe
from gpt_tf2.config import SIZES
from gpt_tf2.training.memory import predict_total
from gpt_tf2.training.schedule import choose_rate
from helpers.finetuning import are_identical, change_settings, read_hdf5, read_weights
from helpers.workplace import ROOT

pytestmark = pytest.mark.usefixtures("without_graphs")
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_ready_recipe_has_known_settings_and_says_how_to_use_it(recipe: Path) -> None:
    command = recipe.read_text().splitlines()[0].split(": ", 1)[1]
    words = command.removeprefix("gpt-tf2 finetune ").replace("recipes/", f"{recipe.parent}/").split()
    assert str(recipe) in words
    settings = parse(FinetuneSettings, words, "gpt-tf2 finetune", "")
    assert settings.data and settings.lr is None


def test_the_recipe_for_8_gb_fits() -> None:
    values = read_recipe(str(ROOT / "recipes" / "lora-1558M.toml"), FinetuneSettings)
    settings = FinetuneSettings(data="book.txt", **values)
    assert predict_total(SIZES["1558M"], settings.memory_plan("bfloat16")) < 8e9


@pytest.mark.parametrize("how", [{}, pytest.param({"lora_rank": 2}, marks=pytest.mark.slow)], ids=["all", "lora"])
def test_a_run_repeated_from_its_own_recipe_has_the_same_weights(workplace: Path, how: dict) -> None:
    values = {"epochs": 1, "steps": 3, "lr": None, "decay_epochs": (2, 3), "seed": 7, **how}
    first = run_finetune(change_settings(**values))
    weights, recipe = read_weights(first), first.with_suffix("") / "run.toml"
    settings = read_recipe(str(recipe), FinetuneSettings)
    assert settings["lr"] == (2e-4 if how else 1e-3) and settings["decay_epochs"] == (2, 3)
    assert "auto" not in settings.values() and settings["output"] == "output/m.h5"
    assert main(["finetune", f"--config={recipe}", "--output=again.h5"]) == 0
    assert are_identical(weights, read_weights(Path("output/again.h5")))
    state = read_hdf5(recipe.with_name("state.h5"))
    text = recipe.read_text()
    assert main(["finetune", f"--config={recipe}"]) == 0  # that file alone
    assert are_identical(state, read_hdf5(recipe.with_name("state.h5"))) and recipe.read_text() == text


def test_the_learning_rate_suits_the_size_the_optimizer_and_lora() -> None:
    assert [choose_rate(n, "adamw", False) for n in (124e6, 355e6, 774e6, 1558e6)] == [1e-4, 5e-5, 3e-5, 2e-5]
    assert choose_rate(10_000, "adamw", False) == 1e-3  # from random weights
    assert {choose_rate(n, "adamw", True) for n in (124e6, 1558e6)} == {2e-4}
    assert (
        choose_rate(124e6, "lion", False) < choose_rate(124e6, "muon", False) < choose_rate(124e6, "adafactor", False)
    )


@pytest.mark.slow
def test_a_resumed_run_keeps_the_learning_rate_that_it_began_with(workplace: Path) -> None:
    run_finetune(change_settings(epochs=1, steps=2, lr=0.0005))
    path = run_finetune(change_settings(epochs=2, steps=2, lr=None, resume=True))
    assert read_recipe(str(path.with_suffix("") / "run.toml"), FinetuneSettings)["lr"] == 0.0005


@pytest.mark.parametrize(
    ("output", "written"),
    [
        ("./x.h5", "x.h5"),
        pytest.param('o/my "bo\nok".h5', 'o/my "bo\nok".h5', marks=pytest.mark.slow),
        pytest.param("runs/x.h5", "runs/x.h5", marks=pytest.mark.slow),
        pytest.param("x.h5", "output/x.h5", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_recipe_repeats_a_run_of_any_name(workplace: Path, output: str, written: str) -> None:
    path = run_finetune(change_settings(epochs=1, steps=1, output=output, output_name=None))
    assert path == Path(written)
    weights = read_weights(path)
    path.unlink()
    assert main(["finetune", f"--config={path.with_suffix('')}/run.toml"]) == 0
    assert are_identical(weights, read_weights(path))


def test_a_path_that_is_no_utf8_is_refused_before_training(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    Path("story.txt").rename(name)
    assert main(["finetune", "--model=tiny", f"--data={name}", "--length=32", "--steps=1", "--output=m.h5"]) == 2
    err = capsys.readouterr().err
    assert "not UTF-8" in err and "rename" in err and err.count("\n") == 1
    assert not Path("output").exists() or not list(Path("output").glob("**/*.h5"))
