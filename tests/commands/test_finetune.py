"""`finetune` on examples that do not fit or are broken, its model by name or path, and two at once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.storage.locks import write_alone
from helpers import made_up
from helpers.commands import FINETUNE
from helpers.data_sets import story

pytestmark = pytest.mark.usefixtures("without_graphs")


@pytest.mark.parametrize(
    ("loader", "act", "length", "words"),
    [
        (
            "cnndm",
            lambda: story(0).write_text("word " * 300 + "\n\n@highlight\n\nx"),
            256,
            ["shortened 1 examples longer than 256 tokens at the end of their passage"],
        ),
        (
            "cnndm --too_long=skip",
            lambda: story(0).write_text("word " * 300 + "\n\n@highlight\n\nx"),
            256,
            ["skipped 1 examples longer than 256 tokens"],
        ),
        (
            "cnndm",
            lambda: story(0).write_text("x\n\n@highlight\n\n" + "word " * 300),
            256,
            ["skipped 1 examples longer than 256 tokens"],
        ),
        (
            "cnndm",
            lambda: None,
            12,
            ["--dataset_path cnndm", "each of 3 examples is longer than 12 tokens", "raise --length"],
        ),
        (
            "coqa",
            lambda: None,
            12,
            ["--dataset_path coqa", "each of 2 examples is longer than 12 tokens", "raise --length"],
        ),
        ("coqa", lambda: Path("coqa/coqa-train-v1.0.json").unlink(), 256, ["coqa-train-v1.0.json", "check the path"]),
        ("cnndm", lambda: story(1).write_text("No highlight"), 256, ["skipped 1, no highlight"]),
        (
            "cnndm",
            lambda: story(1).write_bytes(b"caf\xe9 \xff"),
            256,
            [".story: not UTF-8 text at byte 3, line 1", "--encoding"],
        ),
    ],
)
def test_unusable_examples_are_reported_and_the_rest_is_trained_on(
    loader: str,
    act: Callable[[], object],
    length: int,
    words: list[str],
    data_sets: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    made_up.write_model(Path("models/tiny"), 256)
    Path("coqa/coqa-dev-v1.0.json").rename("coqa/coqa-train-v1.0.json")
    act()
    loader, *more = loader.split()
    flags = [f"--data_loader={loader}", f"--dataset_path={loader}", "--model=tiny", f"--length={length}", *more]
    code = main(["finetune", *flags, "--num_epoch=1", "--steps_per_epoch=1"])
    out, err = capsys.readouterr()
    shown = err if code else out
    assert "Traceback" not in err and (code, err.count("\n")) in ((0, 0), (2, 1)), err
    for word in words:
        assert word in shown, shown
    assert Path(f"output/{loader}_tiny.h5").is_file() == (code == 0)


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("tiny", "output/story_tiny.h5"),
        ("models/tiny", "output/story_tiny.h5"),
        ("models/tiny/model.ckpt", "output/story_tiny.h5"),
        ("output/m.h5", "output/story_m.h5"),
        ("124M", "output/story_124M.h5"),
    ],
)
def test_an_output_is_named_after_the_data_and_the_model(model: str, output: str, workplace: Path) -> None:
    Path("output").mkdir()
    Path("output/m.h5").touch()
    assert FinetuneSettings(data="story.txt", model=model).output_path() == Path(output)


def test_an_absolute_path_names_a_model_by_its_last_part(workplace: Path) -> None:
    settings = FinetuneSettings(data="story.txt", model=str(workplace / "models" / "tiny"))
    assert settings.output_path() == Path("output/story_tiny.h5")


def test_a_second_run_is_refused_at_its_start(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("gpt_tf2.storage.locks.PATIENCE", 0.01)
    with write_alone(Path("output/m.h5"), "output_name", Path("output/m")):
        assert main([*FINETUNE.split(), "--output_name=m.h5"]) == 2
    err = capsys.readouterr().err
    assert "output/m.h5: another process is writing it" in err and "--output_name" in err and err.count("\n") == 1
    assert not Path("output").exists()
