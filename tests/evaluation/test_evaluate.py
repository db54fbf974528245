"""Evaluation: from raw data over a fine-tuned model to figures; kills, long passages, bad input."""

import json
import math
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import EvaluateSettings, FinetuneSettings, Tokenizer, evaluate, finetune, load_model
from gpt_tf2.cli import main
from gpt_tf2.evaluation.predictions import prompt_ids
from gpt_tf2.tasks.task import Example, Turn
from helpers import made_up as madeup
from helpers.processes import OPENAI_TINY, command, run

N_CTX = 128


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data sets and models that were fine-tuned on them."""
    folder = tmp_path_factory.mktemp("trained")
    madeup.write_stories(folder / "stories", train=1500, test=40)
    madeup.write_conversations(folder / "talks", train=1500, dev=25)
    madeup.write_model(folder / "models" / "small", N_CTX)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for loader, data in (("cnndm", "stories"), ("coqa", "talks")):
            finetune(
                FinetuneSettings(
                    dataset_path=data,
                    data_loader=loader,
                    model="small",
                    output_name=f"{loader}.h5",
                    num_epoch=1,
                    steps_per_epoch=400,
                    batch_size=16,
                    length=N_CTX,
                    base_lr=0.003,
                    sample_every=0,
                )
            )
    return folder


@pytest.fixture
def folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


SUMMARIES = ["--data_loader=cnndm", "--dataset_path=stories", "--model_path=output/cnndm.h5", "--output_length=30"]
ANSWERS = ["--data_loader=coqa", "--dataset_path=talks", "--model_path=output/coqa.h5", "--output_length=12"]
GREEDY, DRAWN = ["--temperature=0"], ["--top_k=40", "--seed=3"]


def test_a_model_fine_tuned_on_stories_beats_lead_3(folder: Path, capsys: pytest.CaptureFixture) -> None:
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
    # The figures are those of the file of predictions.
    highlights = [path.read_text().split("@highlight\n\n")[1] for path in stories("test")]
    Path("references.txt").write_text("".join(f"<t> {highlight} </t>\n" for highlight in highlights))
    assert main(["score", "rouge", "summaries.txt", "references.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == scores["summaries"]


def stories(split: str) -> list[Path]:
    from gpt_tf2.tasks.cnndm import story_path

    urls = Path(f"stories/url_lists/all_{split}.txt").read_text().split()
    return [Path("stories") / story_path(url) for url in urls]


def test_a_model_fine_tuned_on_conversations_answers(folder: Path, capsys: pytest.CaptureFixture) -> None:
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
def test_engines_batches_and_guesses_change_no_prediction(
    task: list[str], name: str, sampling: list[str], folder: Path
) -> None:
    found = []
    for how in ("--batch_size=8", "--batch_size=1", "--draft=off", "--engine=graph"):
        assert main(["evaluate", *task, *sampling, how, f"--output_file=out{how}_{name}"]) == 0
        found.append(Path(f"out{how}_{name}").read_text())
    assert len(set(found)) == 1


@pytest.mark.parametrize(("task", "name"), [(SUMMARIES, "s.txt"), (ANSWERS, "a.json")])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_killed_three_times_it_ends_with_the_same_predictions(
    task: list[str], name: str, sampling: list[str], folder: Path
) -> None:
    flags = [*task, *sampling, "--batch_size=2"]
    whole = run("evaluate.py", *flags, f"--output_file=whole_{name}", folder=folder)
    assert (whole.returncode, whole.stderr) == (0, "")
    partial, draw, kills = folder / f"killed_{name}.partial", random.Random(name), 0
    for _ in range(3):
        process = command("evaluate.py", *flags, f"--output_file=killed_{name}", folder=folder)
        began = partial.stat().st_size if partial.exists() else 0
        while process.poll() is None and (not partial.exists() or partial.stat().st_size <= began + 80):
            time.sleep(0.002)  # until it has done something
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 3, "it ended before it was killed"
    with partial.open("ab") as file:
        file.write(b'{"0:38": ["cut o')  # as a kill in the midst of a write leaves it
    last = run("evaluate.py", *flags, f"--output_file=killed_{name}", folder=folder)
    assert (last.returncode, last.stderr) == (0, "") and "going on after" in last.stdout
    assert (folder / f"killed_{name}").read_bytes() == (folder / f"whole_{name}").read_bytes()
    assert not partial.exists()


def test_another_evaluation_does_not_go_on_from_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_tf2.storage import journal

    settings = EvaluateSettings(
        data_loader="coqa", dataset_path="talks", model_path="output/coqa.h5", output_file="o.json", limit=3
    )
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "remove", lambda self: self.file.close())
        evaluate(settings)
    kept = Path("o.json.partial").read_bytes()
    evaluate(EvaluateSettings(**{**vars(settings), "seed": 9}))
    assert kept and not Path("o.json.partial").exists()


def test_predictions_do_not_depend_on_the_batch(folder: Path) -> None:
    texts = []
    for size in (1, 7):
        assert main(["evaluate", *ANSWERS, *DRAWN, "--limit=9", f"--batch_size={size}", "--output_file=b.json"]) == 0
        texts.append(Path("b.json").read_text())
    assert texts[0] == texts[1] and len(json.loads(texts[0])) == 36


def test_gold_answers_are_shown_where_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_tf2.evaluation import predictions as predict

    shown: list[list[str]] = []
    plain = predict.prompt_ids

    def noted(passage: list[int], example: Example, earlier: list[str], *rest: object) -> object:
        shown.append(list(earlier))
        return plain(passage, example, earlier, *rest)

    monkeypatch.setattr(predict, "prompt_ids", noted)
    settings = {"data_loader": "coqa", "dataset_path": "talks", "model_path": "models/small", "limit": 2}
    settings |= {"output_length": 4, "output_file": "g.json", "temperature": 0.0}
    evaluate(EvaluateSettings(**settings, gold_answers=True))
    content = json.loads(Path("talks/coqa-dev-v1.0.json").read_text())["data"][1]["answers"]
    assert shown[-1] == [f" {answer['input_text']}" for answer in content[:3]]
    evaluate(EvaluateSettings(**settings))
    assert shown[-1] != shown[7] and len(shown[-1]) == 3


def test_references_of_ones_own(folder: Path) -> None:
    lines = "".join(f"<t> The {word} </t>\n" for word in ["clock"] * 40)
    Path("own.tagged").write_text(lines)
    settings = {"data_loader": "cnndm", "dataset_path": "stories", "model_path": "models/small", "limit": 3}
    settings |= {"output_length": 8, "output_file": "r.txt", "references": "own.tagged"}
    scores = evaluate(EvaluateSettings(**settings))
    assert scores["LEAD-3"]["rouge-1/recall"]["mean"] == 0.5


def test_an_article_longer_than_the_context_is_shortened(folder: Path, capsys: pytest.CaptureFixture) -> None:
    long = folder / "long"
    madeup.write_stories(long, test=2)
    path = next(long.rglob("*.story"))
    article, highlight = path.read_text().split("\n\n@highlight")
    path.write_text(f"{article} {article} {article}\n\n@highlight{highlight}")
    flags = ["--data_loader=cnndm", "--dataset_path=long", "--model_path=output/cnndm.h5", "--output_length=20"]
    assert main(["evaluate", *flags]) == 0
    assert "1 prompts did not fit into 128 tokens" in capsys.readouterr().out
    assert len(Path("output/cnndm_cnndm_test.txt").read_text().splitlines()) == 2


def test_what_goes_where_the_context_is_too_short(folder: Path) -> None:
    tokenizer = Tokenizer("models/small/encoder.json", "models/small/vocab.bpe")
    turns = tuple(Turn(f"\n Q: What colour was it {i}?\n A:", (" red",)) for i in range(6))
    example = Example("x", "Once there was a red cat. " * 8, turns)
    passage = tokenizer.encode(example.passage)
    answers = [" red", " blue", " green"]

    def asked(room: int) -> tuple[str, bool]:
        ids, whole = prompt_ids(passage, example, answers, room, tokenizer)
        assert len(ids) <= room
        return tokenizer.decode(ids), whole

    everything = example.passage + "".join(f"\n Q: What colour was it {i}?\n A:{a}" for i, a in enumerate(answers))
    everything += "\n Q: What colour was it 3?\n A:"
    size = len(tokenizer.encode(everything))
    assert asked(size + 20) == (everything, True)
    text, whole = asked(size - 5)
    assert not whole and text.startswith("Once") and text.endswith(everything[len(example.passage) :])
    text, whole = asked(60)
    assert not whole and text.startswith("Once") and " red\n Q: What colour was it 1" not in text
    assert text.endswith("A: green\n Q: What colour was it 3?\n A:")
    assert asked(4)[0] == tokenizer.decode(tokenizer.encode(turns[3].prompt)[-4:])


def test_perplexity_is_that_of_the_network_with_a_sliding_window(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    text = Path("story.txt").read_text()[:700] + " é"
    Path("t.txt").write_text(text)
    assert main(["evaluate", "--dataset_path=t.txt", "--model_path=models/tiny", "--batch_size=3"]) == 0
    assert "bits a byte" in capsys.readouterr().out
    found = json.loads(Path("output/tiny_text_train.scores.json").read_text())["text"]["t.txt"]
    model, tokenizer = load_model(OPENAI_TINY), Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    ids, n_ctx = [tokenizer.end_of_text, *tokenizer.encode(text)], 64
    assert len(ids) > 3 * n_ctx
    nats = 0.0
    for place in range(1, len(ids)):
        start = max(0, (place - 1 - n_ctx // 2) // (n_ctx // 2) * (n_ctx // 2)) if place > n_ctx else 0
        logits = np.asarray(model(np.array([ids[start:place]])))[0, -1].astype("float64")
        nats += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[place]]
    assert found["tokens"] == len(ids) - 1 and found["bytes"] == len(text.encode())
    assert found["perplexity a token"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-4)
    assert found["bits a byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "held"),
    [
        (["--data_loader=cnndm", "--dataset_path=no"], ["no/url_lists/all_test.txt", "give the folder"]),
        (["--data_loader=cnndm", "--dataset_path=stories", "--split=dev"], ["--split dev", "train, val, test"]),
        (["--data_loader=xsum", "--dataset_path=stories"], ["--data_loader xsum", "cnndm"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--limit=0"], ["--limit 0", "at least 1"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--output_length=128"], ["--output_length 128", "n_ctx 128"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--references=no.json"], ["no.json", "check the path"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--batch_size=0"], ["--batch_size 0", "at least 1"]),
        (["--data_loader=coqa", "--dataset_path=talks", "--output_file=talks/a.json/b"], ["talks", "--output_file"]),
        (["--data_loader=coqa"], ["--dataset_path", "required"]),
        (["--dataset_path=stories", "--limit=3"], ["--limit 3", "leave it out"]),
        (["--dataset_path=stories", "--quantize=int8"], ["--quantize int8", "leave it out"]),
        (["--dataset_path=no.txt"], ["no.txt", "no file there"]),
        (
            ["--data_loader=cnndm", "--dataset_path=stories", "--references=short.tagged", "--output_length=2"],
            ["short.tagged: 1 lines", "a line for each story"],
        ),
    ],
)
def test_bad_input_ends_in_one_line(
    flags: list[str], held: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("short.tagged").write_text("<t> one </t>\n")
    Path("talks/a.json").write_text("[]")
    assert main(["evaluate", "--model_path=models/small", *flags]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    for part in held:
        assert part in err, err
