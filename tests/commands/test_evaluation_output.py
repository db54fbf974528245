"""Where `evaluate` writes: default names, other models and data, and checks before the work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_tf2.commands.evaluation_output import claim_output, identify, journal_path, scores_path, write_scores
from gpt_tf2.errors import InputError
from gpt_tf2.storage.journal import Journal
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import Task
from helpers.data_sets import FIXTURES

COQA = find_task("coqa")
SCORES = {"answers": {"overall": {"f1": 50.0}}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "model.ckpt.index").touch()
    return tmp_path


def find(model: str = "a/model.ckpt", data: str = "coqa", output_file: str | None = None) -> Path:
    with claim_output(output_file, model, data, COQA, "dev") as output:
        return output


def evaluate(model: str, data: str = "coqa") -> Path:
    """Write scores as an evaluation does."""
    output = find(model, data)
    return write_scores(output, SCORES, model, data)


def test_the_default_name_is_that_of_model_task_and_split() -> None:
    assert find() == Path("output/model_coqa_dev.json") and find("a/") == Path("output/a_coqa_dev.json")
    with claim_output(None, "a", "coqa", COQA, "dev", called="boats") as output:
        assert output == Path("output/boats_coqa_dev.json")
    assert not Path("output").exists()
    Path("a").rename("124M")
    assert find("124M/.") == Path("output/124M_coqa_dev.json")


def test_the_same_evaluation_overwrites_its_scores_and_another_does_not() -> None:
    first = evaluate("a/model.ckpt")
    assert json.loads(first.read_text()) == SCORES
    assert evaluate("a/model.ckpt") == first
    others = {evaluate("b/model.ckpt"), evaluate("a/model.ckpt", "other"), first}
    assert len(others) == 3 and {evaluate("b/model.ckpt"), evaluate("a/model.ckpt", "other"), first} == others
    assert find("a/model.ckpt", output_file="output/own.json") == Path("output/own.json")


def test_scores_of_an_unknown_evaluation_are_not_overwritten() -> None:
    Path("output").mkdir()
    Path("output/model_coqa_dev.scores.json").write_text("{}")
    assert find().name == f"model_coqa_dev_{identify('a/model.ckpt', 'coqa')}.json"


def test_the_journal_of_another_evaluation_is_not_overwritten() -> None:
    output = find()
    Journal(journal_path(output), f"{identify('a/model.ckpt', 'coqa')} the rest").file.close()
    assert find() == output and find("b/model.ckpt") != output
    journal_path(output).write_bytes(b"damaged\n")
    assert find("b/model.ckpt") == output


def test_two_evaluations_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_tf2.storage.locks.PATIENCE", 0.01)
    for second in ("output/model_coqa_dev.json", "output/model_coqa_dev.txt"):  # the scores would be the same file
        with (
            claim_output(None, "a/model.ckpt", "coqa", COQA, "dev") as output,
            pytest.raises(InputError, match=f"{second}: another process is writing it: wait .* another output"),
        ):
            assert output == Path("output/model_coqa_dev.json")
            find(output_file=second)
    assert not Path("output").exists()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: Path("out.json").mkdir(), "out.json: is a folder: choose another output"),
        (lambda: Path("out.scores.json").mkdir(), "out.scores.json: is a folder: choose another output"),
        (lambda: Path("out.json.partial").mkdir(), "out.json.partial: is a folder: choose another output"),
        (lambda: Path("out.json").symlink_to("/dev/null"), "output=out.json: .*: give the name of a file"),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error_before_the_work(act: Callable[[], None], words: str) -> None:
    act()
    with pytest.raises(InputError, match=words):
        find(output_file="out.json")


def check(task: Task, data: str, split: str, references: str | None = None) -> None:
    examples = [(number, task.example(item)) for number, item in enumerate(task.items(data, split))]
    task.check(examples, data, split, references)


def test_coqas_sources_ids_and_references_are_checked_before_the_work() -> None:
    shutil.copytree(FIXTURES / "coqa", "coqa")
    path = Path("coqa/coqa-dev-v1.0.json")
    check(COQA, "coqa", "dev")
    content = json.loads(path.read_text())
    Path("references.json").write_text(json.dumps({**content, "data": content["data"][:1]}))
    with pytest.raises(InputError, match=r"references=references.json: no story .* in it"):
        check(COQA, "coqa", "dev", "references.json")
    content["data"].append(content["data"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="several stories have the id"):
        check(COQA, "coqa", "dev")


def test_the_number_of_references_is_checked_before_the_work() -> None:
    shutil.copytree(FIXTURES / "cnndm", "cnndm")
    cnndm = find_task("cnndm")
    check(cnndm, "cnndm", "train")
    Path("references.txt").write_text("<t> one </t>\n")
    with pytest.raises(InputError, match=r"references=references.txt: 1 lines, but train has at least \d stories"):
        check(cnndm, "cnndm", "train", "references.txt")
    assert scores_path(Path("a/b.txt")) == Path("a/b.scores.json")
