"""Flags, Python's keywords and TOML files as settings."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.cli import main
from gpt_tf2.commands.chat import ChatSettings
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.flags import make_settings
from gpt_tf2.commands.generate import GenerateSettings
from gpt_tf2.commands.parsing import parse
from gpt_tf2.errors import InputError


def parse_finetune(*arguments: str) -> FinetuneSettings:
    return parse(FinetuneSettings, ["--data=book.txt", *arguments], "gpt-tf2 finetune", "")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (["--base_lr=0.5"], ["--lr=0.5"], "lr"),
        (["--num_epoch", "3"], ["--epochs", "3"], "epochs"),
        (["--steps_per_epoch=7"], ["--steps=7"], "steps"),
        (["--data_loader=coqa"], ["--task=coqa"], "task"),
    ],
)
def test_old_and_new_names_are_one_setting(old: list[str], new: list[str], field: str) -> None:
    assert getattr(parse_finetune(*old), field) == getattr(parse_finetune(*new), field)
    with pytest.raises(InputError, match=r"^--\w+ and --\w+ are two names of one setting: drop one"):
        parse_finetune(*old, *new)


def test_the_last_of_one_flag_given_twice_counts() -> None:
    assert parse_finetune("--lr=1", "--lr=2").lr == 2


def test_lists_and_yes_or_no() -> None:
    settings = parse_finetune("--decay_epochs=2, 5", "--freeze=wte,h0-1")
    assert settings.decay_epochs == (2, 5) and settings.freeze == ("wte", "h0-1")
    assert parse(GenerateSettings, ["--include_prompt", "no"], "", "").include_prompt is False
    assert parse(GenerateSettings, ["--include_prompt=yes"], "", "").include_prompt is True
    for bad, words in (("--decay_epochs=2,x", "2,x: use whole numbers"), ("--freeze", "expected one argument")):
        with pytest.raises(InputError, match=words):
            parse_finetune(bad)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epocs=3"], "unknown flag --epocs: did you mean --epochs?"),
        (["--qqq=3"], "unknown flag --qqq (see"),
        (["stray"], "unexpected argument 'stray'"),
        (["--base_lr=x"], "--base_lr: invalid float value: 'x'"),
        (["--lr=x"], "--lr: invalid float value: 'x'"),
    ],
)
def test_a_wrong_argument_is_named_as_it_was_typed(arguments: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_finetune(*arguments)
    assert words in caught.value.on_command_line()


def test_an_error_names_the_flag_that_was_typed(capsys: pytest.CaptureFixture) -> None:
    for name in ("--base_lr", "--lr"):
        assert main(["finetune", "--data=x", f"{name}=-1"]) == 2
        assert capsys.readouterr().err == f"gpt-tf2 finetune: {name} -1.0: use more than 0\n"
    assert main(["finetune", "--starter=x"]) == 2


def test_python_takes_paths_lists_numbers_of_numpy_and_old_names() -> None:
    values = {"data": Path("book.txt"), "base_lr": np.float32(0.5), "freeze": ["wte"], "epochs": np.int64(2)}
    settings = make_settings(FinetuneSettings, values)
    assert (settings.data, settings.lr, settings.freeze, settings.epochs) == ("book.txt", 0.5, ("wte",), 2)
    for wrong, words in (
        ({"epocs": 3}, "unknown setting epocs: did you mean epochs?"),
        ({"lr": 1.0, "base_lr": 1.0}, "base_lr and lr are two names of one setting"),
        ({"lr": "fast"}, "lr='fast': use more than 0"),
        ({"epochs": 2.5}, "epochs=2.5: use a whole number, at least 1"),
        ({"epochs": True}, "epochs=True: use a whole number, at least 1"),
        ({"resume": 1}, "resume=1: use true or false"),
        ({"epochs": None}, "epochs=None: use a whole number"),
        ({"decay_epochs": "a,b"}, "decay_epochs=a,b: use whole numbers"),
        ({"decay_epochs": (10**400,)}, "use whole numbers"),
        ({"lr": np.array([1.0, 2.0])}, "use more than 0"),
    ):
        with pytest.raises(InputError) as caught:
            make_settings(FinetuneSettings, {"data": "book.txt", **wrong})
        assert words in str(caught.value)
    with pytest.raises(InputError, match="data is required"):
        make_settings(FinetuneSettings, {})


def test_the_command_line_overrides_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "run.toml"
    recipe.write_text('# ours\ndata = "a.txt"\nbase_lr = 0.5\nepochs = 2\nfreeze = ["wte"]\ndecay_epochs = [3, 4]\n')
    settings = parse(FinetuneSettings, [f"--config={recipe}", "--lr=0.25"], "", "")
    assert (settings.data, settings.lr, settings.epochs) == ("a.txt", 0.25, 2)
    assert (settings.freeze, settings.decay_epochs) == (("wte",), (3, 4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epocs = 3", "run.toml: unknown setting epocs: did you mean epochs?"),
        ("lr = 1.0\nbase_lr = 1.0", "run.toml: base_lr and lr are two names"),
        ("epochs = 1.5", "run.toml: epochs is 1.5: use a whole number, at least 1"),
        ("epochs = true", "run.toml: epochs is True: use a whole number, at least 1"),
        ('lr = "fast"', "run.toml: lr is 'fast': use more than 0"),
        ("epochs = 99999999999999999999", "run.toml: epochs is 99999999999999999999: use"),
        ("[train]\nlr = 1.0", "run.toml: unknown setting train"),
        ("epochs: 4", "run.toml: not TOML"),
        ("\0", "run.toml: not TOML"),
        ("epochs = 1\nepochs = 2", "run.toml: not TOML"),
        (f"epochs = {'9' * 500}", "run.toml: epochs is 9"),
        (f"epochs = {'9' * 5000}", "run.toml: not TOML"),
        (f"x = {'[' * 9000}{']' * 9000}", "run.toml: not TOML"),
        ('model = "a\\u0000b"', "run.toml: model is 'a\\x00b': use a text without NUL"),
        ("decay_epochs = 5", "run.toml: decay_epochs is 5: use whole numbers"),
        ("lr = 2026-11-26", "run.toml: lr is datetime.date(2026, 11, 26): use more than 0"),
    ],
)
def test_a_bad_recipe_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, text: str, words: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    assert main(["finetune", "--data=x", f"--config={tmp_path}/run.toml"]) == 2
    err = capsys.readouterr().err
    assert words in err.replace("--", "") and err.count("\n") == 1
    assert main(["finetune", "--data=x", f"--config={tmp_path}/none.toml"]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_a_recipes_setting_gives_way_to_the_one_that_stands_for_it(tmp_path: Path) -> None:
    recipe = tmp_path / "run.toml"
    recipe.write_text('output = "a.h5"\neager = true\nval_fraction = 0\n')
    settings = parse_finetune(f"--config={recipe}", "--output_name=b.h5", "--no-eager")
    assert (settings.output, settings.output_name, settings.eager, settings.val_fraction) == (None, "b.h5", False, 0)
    recipe.write_text('output_name = "a.h5"\n')
    settings = parse_finetune(f"--config={recipe}", "--output=b.h5")
    assert (settings.output, settings.output_name) == ("b.h5", None)
    recipe.write_text('prompt = "The tide"\n')
    assert parse(GenerateSettings, [f"--config={recipe}", "--prompts=p.txt"], "", "").prompts == "p.txt"


def test_what_is_given_without_a_flag_also_has_one(tmp_path: Path) -> None:
    passage = "--passage=story.txt"
    for arguments in (["m.h5", passage], [passage, "--model=m.h5"], [passage, "--model_path", "m.h5"]):
        assert parse(ChatSettings, arguments, "gpt-tf2 chat", "", ["model"]).model == "m.h5"
    with pytest.raises(InputError, match="MODEL and --model are one setting: drop one"):
        parse(ChatSettings, ["m.h5", passage, "--model=n.h5"], "gpt-tf2 chat", "", ["model"])
    (tmp_path / "run.toml").write_text('model = "m.h5"\n')
    assert parse(ChatSettings, [passage, f"--config={tmp_path}/run.toml"], "", "", ["model"]).model == "m.h5"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_is_a_script_with_commands_and_flags(shell: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "finetune" in script and "rouge" in script and ("--max_new_tokens" in script or shell == "tcsh")
    if shell == "bash":
        complete = 'COMP_WORDS=(gpt-tf2 fine) COMP_CWORD=1; _shtab_gpt_tf2; echo "${COMPREPLY[@]}"'
        result = subprocess.run(["bash", "-c", f"{script}\n{complete}"], capture_output=True, text=True)
        assert result.stdout.strip() == "finetune", result.stderr


def test_help_lists_commands_in_groups_and_flags_under_headings(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    help = capsys.readouterr().out
    assert "\ntrain:\n  finetune " in help and "\nscore:\n  evaluate " in help
    assert all(len(line) <= 100 for line in help.splitlines())
    assert main([]) == 0 and capsys.readouterr().out == help
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    help = capsys.readouterr().out
    places = [help.index(f"\n{heading}:\n") for heading in ("data", "model", "training", "memory", "output")]
    assert places == sorted(places) and "also --base_lr" in help and "(default: 124M)" in help


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["finetun"], "unknown command finetun: did you mean finetune? (see gpt-tf2 --help)"),
        (["qqqqq"], "unknown command qqqqq (see gpt-tf2 --help)"),
        (["score", "bleu"], "score bleu: use score rouge or score coqa"),
    ],
)
def test_an_unknown_command_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_version_names_the_libraries(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("gpt-tf2 0.") and "keras 3." in out and out.count("\n") == 1
