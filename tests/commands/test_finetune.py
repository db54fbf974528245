"""`finetune` on examples that do not fit or are broken."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from helpers import made_up
from helpers.data_sets import story


@pytest.mark.parametrize(
    ("loader", "act", "length", "words"),
    [
        (
            "cnndm",
            lambda: story(0).write_text("word " * 300 + "\n\n@highlight\n\nx"),
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
    flags = [f"--data_loader={loader}", f"--dataset_path={loader}", "--model=tiny", f"--length={length}"]
    code = main(["finetune", *flags, "--num_epoch=1", "--steps_per_epoch=1"])
    out, err = capsys.readouterr()
    shown = err if code else out
    assert "Traceback" not in err and (code, err.count("\n")) in ((0, 0), (2, 1)), err
    for word in words:
        assert word in shown, shown
    assert Path(f"output/{loader}_tiny.h5").is_file() == (code == 0)
