"""`evaluate` from raw data to scores: fine-tuned models, kills, references, passages that are too long, bad input."""

import dataclasses
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from gpt_tf2.cli import main
from gpt_tf2.commands.evaluate import EvaluateSettings, run_evaluate
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.evaluation import predictions
from gpt_tf2.storage.journal import Journal
from gpt_tf2.tasks.cnndm import story_path
from gpt_tf2.tasks.task import Example
from helpers import made_up
from helpers.processes import run_script, start_script

N_CTX = 128


def train(folder: Path, examples: int, steps: int) -> Path:
    """Writes made-up data sets and fine-tunes a model on each. Returns the folder."""
    made_up.write_stories(folder / "stories", train=examples, test=40)
    made_up.write_conversations(folder / "talks", train=examples, dev=25)
    made_up.write_model(folder / "models" / "small", N_CTX)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for loader, data in (("cnndm", "stories"), ("coqa", "talks")):
            run_finetune(
                FinetuneSettings(
                    data=data,
                    task=loader,
                    model="small",
                    output_name=f"{loader}.h5",
                    epochs=1,
                    steps=steps,
                    batch_size=16,
                    length=N_CTX,
                    lr=0.005,
                    lr_schedule="cosine",
                    sample_every=0,
                )
            )
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose models have learned the form of an answer."""
    return train(tmp_path_factory.mktemp("trained"), examples=300, steps=50)


@pytest.fixture
def folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose models have learned to answer."""
    return train(tmp_path_factory.mktemp("learned"), examples=1500, steps=160)


SUMMARIES = ["--data_loader=cnndm", "--dataset_path=stories", "--model_path=output/cnndm.h5", "--output_length=30"]
ANSWERS = ["--data_loader=coqa", "--dataset_path=talks", "--model_path=output/coqa.h5", "--output_length=12"]
GREEDY, DRAWN = ["--temperature=0"], ["--top_k=40", "--seed=3"]


@pytest.mark.slow
def test_a_model_fine_tuned_on_stories_beats_lead_3(
    learned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(learned)
    assert main(["evaluate", *SUMMARIES, *GREEDY, "--output_file=summaries.txt"]) == 0
    out = capsys.readouterr().out
    scores = json.loads(Path("summaries.scores.json").read_text())
    ours, lead = (scores[name]["rouge-l/f1"] for name in ("summaries", "LEAD-3"))
    assert ours["low"] > lead["high"] and ours["mean"] > 0.8
    assert ours["low"] <= ours["mean"] <= ours["high"]
    assert "rouge-2/precision" in out and "LEAD-3" in out and f"{ours['mean']}" in out
    lines = Path("summaries.txt").read_text().splitlines()
    assert len(lines) == 40 and all(line.startswith("<t> The ") and line.endswith(" </t>") for line in lines)
    repeats = scores["share of texts with a repeated n-gram"]["3-gram"]
    assert repeats == {"summaries": 0.0, "references": 0.0}
    assert not Path("summaries.txt.partial").exists()
    # Scoring the file of predictions gives the same figures.
    urls = Path("stories/url_lists/all_test.txt").read_text().split()
    stories = [(Path("stories") / story_path(url)).read_text() for url in urls]
    highlights = [story.split("@highlight\n\n")[1] for story in stories]
    Path("references.txt").write_text("".join(f"<t> {highlight} </t>\n" for highlight in highlights))
    assert main(["score", "rouge", "summaries.txt", "references.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == scores["summaries"]


@pytest.mark.slow
def test_a_model_fine_tuned_on_conversations_answers_questions(
    learned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(learned)
    assert main(["evaluate", *ANSWERS, *GREEDY, "--output_file=answers.json"]) == 0
    assert "overall" in capsys.readouterr().out
    overall = json.loads(Path("answers.scores.json").read_text())["answers"]["overall"]
    assert overall["f1"] > 60 and overall["turns"] == 100
    entries = json.loads(Path("answers.json").read_text())
    assert len(entries) == 100 and entries[5].keys() == {"id", "turn_id", "answer"}
    assert main(["score", "coqa", "talks/coqa-dev-v1.0.json", "answers.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"] == overall


@pytest.mark.parametrize(("task", "name"), [(SUMMARIES, "s.txt"), (ANSWERS, "a.json")])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_engine_batch_size_and_draft_change_no_prediction(
    task: list[str], name: str, sampling: list[str], folder: Path
) -> None:
    contents = []
    for flag in ("--batch_size=8", "--batch_size=1", "--draft=off", "--engine=graph"):
        assert main(["evaluate", *task, *sampling, "--limit=10", flag, f"--output_file=out{flag}_{name}"]) == 0
        contents.append(Path(f"out{flag}_{name}").read_text())
    assert len(set(contents)) == 1


@pytest.mark.parametrize(
    ("task", "name", "sampling"),
    [
        (ANSWERS, "a.json", DRAWN),
        pytest.param(ANSWERS, "a.json", GREEDY, marks=pytest.mark.slow),
        pytest.param(SUMMARIES, "s.txt", DRAWN, marks=pytest.mark.slow),
        pytest.param(SUMMARIES, "s.txt", GREEDY, marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_that_is_killed_three_times_makes_the_same_predictions(
    task: list[str], name: str, sampling: list[str], folder: Path
) -> None:
    flags = [*task, *sampling, "--batch_size=2"]
    assert main(["evaluate", *flags, f"--output_file=whole_{name}"]) == 0
    partial, draw, kills = folder / f"killed_{name}.partial", random.Random(name), 0
    for _ in range(20):  # of which some may end before they are killed
        process = start_script("evaluate.py", *flags, f"--output_file=killed_{name}", folder=folder)
        began = partial.stat().st_size if partial.exists() else 0
        while process.poll() is None and (not partial.exists() or partial.stat().st_size <= began + 80):
            time.sleep(0.002)  # until it has made a prediction
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if kills == 3:
            break
    assert kills == 3, "the evaluations ended before they were killed"
    with partial.open("ab") as file:
        file.write(b'{"0:38": ["cut o')  # as a kill during a write leaves it
    last = run_script("evaluate.py", *flags, f"--output_file=killed_{name}", folder=folder)
    assert (last.returncode, last.stderr) == (0, "") and "resuming after" in last.stdout
    assert (folder / f"killed_{name}").read_bytes() == (folder / f"whole_{name}").read_bytes()
    assert not partial.exists()


@pytest.mark.parametrize(
    ("change", "completions"),
    [({"seed": 9}, 12), ({"limit": 2}, 8), ({"gold_answers": True}, 12), ({"model": "models/small"}, 12)],
)
def test_another_evaluation_does_not_resume_from_the_journal(
    change: dict, completions: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    kept_keys: list[str] = []
    put = Journal.put
    monkeypatch.setattr(Journal, "put", lambda self, key, result: kept_keys.append(key) or put(self, key, result))
    settings = {"task": "coqa", "data": "talks", "model": "output/coqa.h5", "limit": 3, "top_k": 40}

    def run_evaluation(output: str, **changes: object) -> str:
        """Returns what is printed; `kept_keys` are those of the completions that were made."""
        kept_keys.clear()
        capsys.readouterr()
        run_evaluate(EvaluateSettings(**{**settings, "output": output, **changes}))
        return capsys.readouterr().out

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda self: self.file.close())  # as if killed at the very end
        run_evaluation("o.json")
    assert len(kept_keys) == 12
    journal = Path("o.json.partial").read_bytes()
    assert "o.json.partial" in run_evaluation("o.json") and not kept_keys  # the same evaluation says that it resumes

    Path("o.json.partial").write_bytes(journal)
    assert "o.json.partial" not in run_evaluation("o.json", **change) and len(kept_keys) == completions
    assert not Path("o.json.partial").exists()
    run_evaluation("fresh.json", **change)
    assert Path("o.json").read_bytes() == Path("fresh.json").read_bytes()


def test_predictions_do_not_depend_on_the_batch_size(folder: Path) -> None:
    texts = []
    for size in (1, 7):
        assert main(["evaluate", *ANSWERS, *DRAWN, "--limit=9", f"--batch_size={size}", "--output_file=b.json"]) == 0
        texts.append(Path("b.json").read_text())
    assert texts[0] == texts[1] and len(json.loads(texts[0])) == 36


def test_earlier_turns_show_gold_answers_if_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[str]] = []
    build_prompt = predictions.build_prompt

    def record(passage: list[int], example: Example, answers: list[str], *rest: object) -> object:
        shown.append(list(answers))
        return build_prompt(passage, example, answers, *rest)

    monkeypatch.setattr(predictions, "build_prompt", record)
    settings = {"task": "coqa", "data": "talks", "model": "models/small", "limit": 2}
    settings |= {"max_new_tokens": 4, "output": "g.json", "temperature": 0.0}
    run_evaluate(EvaluateSettings(**settings, gold_answers=True))
    gold = json.loads(Path("talks/coqa-dev-v1.0.json").read_text())["data"][1]["answers"]
    assert shown[-1] == [f" {answer['input_text']}" for answer in gold[:3]]
    run_evaluate(EvaluateSettings(**settings))
    assert shown[-1] != shown[7] and len(shown[-1]) == 3


def test_predictions_are_scored_against_the_users_references(folder: Path) -> None:
    lines = "".join(f"<t> The {word} </t>\n" for word in ["clock"] * 40)
    Path("own.tagged").write_text(lines)
    settings = {"task": "cnndm", "data": "stories", "model": "models/small", "limit": 3}
    settings |= {"max_new_tokens": 8, "output": "r.txt", "references": "own.tagged"}
    scores = run_evaluate(EvaluateSettings(**settings))
    assert scores["LEAD-3"]["rouge-1/recall"]["mean"] == 0.5


def test_several_samples_make_up_a_summary(folder: Path) -> None:
    flags = [*SUMMARIES, "--top_k=40", "--output_length=20", "--limit=4"]
    for trials, batch, name in ((1, 8, "one.txt"), (3, 8, "three.txt"), (3, 1, "again.txt")):
        more = [f"--num_trials={trials}", f"--batch_size={batch}", f"--output_file={name}"]
        assert main(["evaluate", *flags, *more]) == 0
    one, three = (Path(name).read_text().splitlines() for name in ("one.txt", "three.txt"))
    assert [line.count("<t>") for line in three] == [3] * 4
    for first, all_three in zip(one, three, strict=True):
        words = first.removeprefix("<t> ").removesuffix(" </t>").split(" </t> <t> ")
        assert all_three.startswith("<t> " + words[0].removesuffix(" ."))
    assert len({sample for line in three for sample in line.split("<t>")}) > 5
    assert Path("again.txt").read_text() == Path("three.txt").read_text()


def test_summaries_are_scored_as_the_model_learned_them(folder: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["evaluate", "--task=cnndm", "--data=stories", "--limit=1", "--max_new_tokens=4", "--engine=graph"]
    shutil.copytree("models/small", "whole")
    shutil.copytree("models/small", "whole-last")
    Path("whole/run.toml").write_text('task = "cnndm"\nhighlights = "all"\n')
    for name in ("whole", "whole-last"):
        assert main([*flags, f"--model={name}"]) == 0
        assert f"--highlights all, as {name}/model.ckpt learned" in capsys.readouterr().out
    assert main([*flags, "--model=whole", "--highlights=one"]) == 0
    assert "whole/model.ckpt learned --highlights all, not one" in capsys.readouterr().out
    assert main([*flags, "--model=models/small"]) == 0
    assert "learned" not in capsys.readouterr().out


def test_samples_resume_from_the_journal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EvaluateSettings(
        task="cnndm", data="stories", model="models/small", limit=3, max_new_tokens=4, num_trials=3, output="whole.txt"
    )
    run_evaluate(settings)
    made: list[str] = []
    put = Journal.put

    def put_five(self: Journal, key: str, result: object) -> None:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(key)
        put(self, key, result)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "put", put_five)
        run_evaluate(dataclasses.replace(settings, output="parts.txt"))
    monkeypatch.setattr(Journal, "put", lambda self, key, result: made.append(key) or put(self, key, result))
    run_evaluate(dataclasses.replace(settings, output="parts.txt"))
    assert len(made) == len(set(made)) == 9
    assert Path("parts.txt").read_text() == Path("whole.txt").read_text()


def test_an_article_longer_than_the_context_is_shortened(folder: Path, capsys: pytest.CaptureFixture) -> None:
    long = folder / "long"
    made_up.write_stories(long, test=2)
    path = next(long.rglob("*.story"))
    article, highlight = path.read_text().split("\n\n@highlight")
    path.write_text(f"{article} {article} {article}\n\n@highlight{highlight}")
    flags = ["--data_loader=cnndm", "--dataset_path=long", "--model_path=output/cnndm.h5", "--output_length=20"]
    assert main(["evaluate", *flags]) == 0
    assert "1 prompts did not fit into 128 tokens" in capsys.readouterr().out
    assert len(Path("output/cnndm_cnndm_test.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data_loader=cnndm", "--dataset_path=no"], ["--dataset_path no", "no such file", "give"]),
        (["--data_loader=cnndm", "--dataset_path=stories", "--split=dev"], ["--split dev", "train, val, test"]),
        (["--data_loader=xsum", "--dataset_path=stories"], ["--data_loader xsum", "cnndm"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--limit=0"], ["--limit 0", "at least 1"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--output_length=128"], ["--output_length 128", "n_ctx 128"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--references=no.json"], ["no.json", "check the path"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--batch_size=0"], ["--batch_size 0", "at least 1"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--output_file=talks/a.json/b"], ["talks", "--output_file"]),
        (["--data_loader=coqa"], ["--data is required"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--num_trials=3"], ["--num_trials 3", "--data_loader coqa"]),
        (["--dataset_path=stories", "--num_trials=3"], ["--num_trials 3", "leave it out"]),
        (
            ["--data_loader=cnndm", "--dataset_path=stories", "--num_trials=3", "--highlights=all"],
            ["--num_trials 3", "drop it, or give --highlights one"],
        ),
        (
            ["--data_loader=cnndm", "--dataset_path=stories", "--num_trials=2", "--temperature=0"],
            ["--num_trials 2", "would be the same", "raise --temperature"],
        ),
        (["--dataset_path=stories", "--limit=3"], ["--limit 3", "leave it out"]),
        (["--dataset_path=stories", "--quantize=int8"], ["--quantize int8", "leave it out"]),
        (["--dataset_path=no.txt"], ["--dataset_path no.txt", "no such file"]),
        (
            ["--data_loader=cnndm", "--dataset_path=stories", "--references=short.tagged", "--output_length=2"],
            ["short.tagged: 1 lines", "one line for each story"],
        ),
    ],
)
def test_bad_input_is_one_line_on_stderr(
    flags: list[str], words: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("short.tagged").write_text("<t> one </t>\n")
    Path("talks/a.json").write_text("[]")
    assert main(["evaluate", "--model_path=models/small", *flags]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    for word in words:
        assert word in err, err
