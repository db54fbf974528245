"""The task `jsonl` from lines to scores: what a model learns of pairs and chats, and what `chat` and `evaluate` do."""

import dataclasses
import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gpt_tf2
from gpt_tf2.backend.workers import Workers
from gpt_tf2.checkpoints.opened import open_model, save_model
from gpt_tf2.cli import main
from gpt_tf2.commands.chat import make_example_of_chat
from gpt_tf2.commands.evaluate import EvaluateSettings, run_evaluate
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.commands.merge import MergeSettings, merge
from gpt_tf2.data.encoding import encode_example, encode_text
from gpt_tf2.data.packing import PackedExamples
from gpt_tf2.data.prepared import prepare_in_memory
from gpt_tf2.decoding.engine import open_decoder
from gpt_tf2.errors import InputError
from gpt_tf2.evaluation.completion_perplexity import measure_completions
from gpt_tf2.evaluation.shared_journal import SharedJournal
from gpt_tf2.generation.prompts import build_prompt
from gpt_tf2.tasks.chat_template import DEFAULT_TEMPLATE, ChatTemplate, format_template
from gpt_tf2.tasks.jsonl import to_example
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tokenizer import Tokenizer
from gpt_tf2.training.blockwise import BlockwiseModel
from helpers import made_up
from helpers.workplace import OPENAI_TINY

N_CTX = 128
NAMES = ["Ann", "Bob", "Cleo", "Dan", "Eve", "Finn"]
PAIR = {"prompt": "The tide", "completion": " counted\nthe boats"}
CHAT = {"messages": [{"role": role, "content": "Hi there"} for role in ("system", "user", "assistant")]}


def make_pair(draw: random.Random) -> dict:
    """The first and the last of three words, in two lines."""
    words = draw.sample(made_up.THINGS + made_up.PLACES, 3)
    return {"prompt": " ".join(words) + " =", "completion": f" {words[0]}\n{words[2]}"}


def make_chat(draw: random.Random) -> dict:
    """A chat of two turns, the second about what was said in the first; a reply has two lines."""
    name, thing = draw.choice(NAMES), draw.choice(made_up.THINGS)
    said = [
        f"I am {name} and I have a {thing}.",
        f"Hello {name}!\nNice {thing}.",
        "What is my name?",
        f"You are {name}.",
    ]
    messages = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, said, strict=True)]
    return {"messages": messages}


def write_lines(path: Path, *values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def draw_values(make: Callable[[random.Random], dict], name: str, count: int) -> list[dict]:
    draw = random.Random(name)
    return [make(draw) for _ in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs and chats, and a model fine-tuned on both."""
    folder = tmp_path_factory.mktemp("jsonl")
    made_up.write_model(folder / "models" / "small", N_CTX)
    makers = {"pairs": make_pair, "chats": make_chat}
    for name, make in makers.items():
        write_lines(folder / name / "test.jsonl", *draw_values(make, "test", 30))
    both = [value for make in makers.values() for value in draw_values(make, "train", 2000)]
    write_lines(folder / "both.jsonl", *both)
    settings = {"batch_size": 16, "length": N_CTX, "lr": 0.005, "lr_schedule": "cosine", "sample_every": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_finetune(
            FinetuneSettings(
                data="both.jsonl", task="jsonl", model="small", output_name="both.h5", epochs=1, steps=250, **settings
            )
        )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("data", "turns"), [("pairs", 30), ("chats", 60)])
def test_a_model_learns(data: str, turns: int, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    settings = EvaluateSettings(
        data=data, task="jsonl", model="output/both.h5", temperature=0, engine="graph", max_new_tokens=30
    )
    scores = run_evaluate(settings, is_written=False, is_shown=False)
    assert scores["completions"]["all"]["turns"] == turns and scores["completions"]["all"]["em"] >= 90
    assert scores["the data's completions"]["all"]["perplexity per token"] < 1.1


@pytest.mark.slow
def test_a_model_chats_over_two_turns(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setattr("sys.stdin", io.StringIO("I am Eve and I have a bell.\nWhat is my name?\n"))
    assert main(["chat", "output/both.h5", "--engine=graph", "--max_new_tokens=30"]) == 0
    assert capsys.readouterr().out == "Hello Eve!\nNice bell.\nYou are Eve.\n"


CHATML = ChatTemplate(("<s>", "</s>\n"), ("<u>", "</u>\n"), ("<a> ", "\n"))


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, CHATML])
@pytest.mark.parametrize("system", ["Be brief.", None])
def test_a_prompt_of_chat_is_what_training_shows_before_the_reply(system: str | None, template: ChatTemplate) -> None:
    tokenizer = Tokenizer(OPENAI_TINY / "encoder.json", OPENAI_TINY / "vocab.bpe")
    asked, replies = ["Hi", "Why?<|endoftext|>"], ["Hello\nthere", "So."]
    messages = [{"role": "system", "content": system}] if system else []
    for question, reply in zip(asked, replies, strict=True):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    trained = encode_example(to_example({"messages": messages}, "d:1", template), tokenizer)
    passage, *spans = np.split(trained.ids, np.cumsum(trained.lengths)[:-1])
    for turn in range(2):
        example = make_example_of_chat(system, asked[: turn + 1], template)
        answers = [tokenizer.decode(span) for span in spans[1 : 2 * turn : 2]]
        prompt, _ = build_prompt(encode_text(example.passage, tokenizer), example, answers, 999, tokenizer)
        assert prompt == [*passage, *np.concatenate(spans[: 2 * turn + 1])]


def chat(lines: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """Runs `chat` with an untrained model."""
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return main(["chat", "models/tiny", "--engine=graph", "--max_new_tokens=6", *flags])


def test_chat_takes_the_template_beside_the_model(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Path("models/tiny/chat.json").write_text(format_template(CHATML))
    assert chat("Hi\n", monkeypatch, "--system=Be brief.") == 0
    lm = gpt_tf2.load("models/tiny", engine="graph")
    reply = lm.generate("<s>Be brief.</s>\n<u>Hi</u>\n<a>", max_new_tokens=6, temperature=0)
    assert capsys.readouterr().out == f"{reply.strip()}\n"


def test_a_long_chat_loses_its_oldest_messages_and_says_so_once(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Path("models/tiny/chat.json").write_text(format_template(DEFAULT_TEMPLATE))
    assert chat("The tide counted the boats home.\n" * 5, monkeypatch) == 0
    err = capsys.readouterr().err
    assert err.count("the conversation no longer fits into 58 tokens") == 1


def test_in_a_short_context_the_default_leaves_half_of_it_to_the_prompt(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Path("models/tiny/chat.json").write_text(format_template(DEFAULT_TEMPLATE))
    monkeypatch.setattr("sys.stdin", io.StringIO("The tide counted the boats home.\n" * 2))
    assert main(["chat", "models/tiny", "--engine=graph"]) == 0  # n_ctx 64
    assert "the conversation no longer fits into 32 tokens" in capsys.readouterr().err
    write_lines(Path("d.jsonl"), PAIR)
    settings = EvaluateSettings(data="d.jsonl", task="jsonl", model="tiny", engine="graph")
    run_evaluate(settings, is_written=False, is_shown=False)
    with pytest.raises(InputError, match=r"^max_new_tokens=100: leaves no room for a prompt in n_ctx 64"):
        run_evaluate(dataclasses.replace(settings, max_new_tokens=100), is_written=False)


@pytest.mark.parametrize(
    ("template", "flags", "words"),
    [
        ("", [], ["models/tiny/", "no chat.json beside it, so the model has learned no chats", "give a --passage"]),
        ("{}", [], ["models/tiny/chat.json: not an object of system, user, assistant: write {"]),
        ("", ["--passage=story.txt", "--system=x"], ["--system x", "belongs to a chat without a --passage"]),
    ],
)
def test_chat_without_what_it_needs_is_one_line(
    template: str,
    flags: list[str],
    words: list[str],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    if template:
        Path("models/tiny/chat.json").write_text(template)
    assert chat("Hi\n", monkeypatch, *flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and all(word in err for word in words)


def finetune(data: str, output: str, **settings: object) -> None:
    """A step of training."""
    short = {"model": "tiny", "epochs": 1, "steps": 1, "length": 64, "sample_every": 0}
    run_finetune(FinetuneSettings(data=data, task="jsonl", output=f"./{output}", **(short | settings)))


def test_a_chat_template_is_of_the_model_in_its_folder_only(workplace: Path) -> None:
    opened = open_model("models/tiny")
    network = opened.load()
    for path in ("out/model.safetensors", "out/dpo.h5"):
        save_model(network, path, opened.tokenizer)
    Path("out/chat.json").write_text(format_template(CHATML))
    assert open_model("out/model.safetensors").chat_template == open_model("out").chat_template == CHATML
    assert open_model("out/dpo.h5").chat_template is None


def test_a_save_without_a_chat_template_deletes_only_that_of_the_model_it_replaces(workplace: Path) -> None:
    lm, file = gpt_tf2.load("tiny", engine="graph"), Path("mine/chat.json")
    file.parent.mkdir()
    ours = format_template(CHATML) + "\n"
    for name, content, stays in (
        ("mine/model.safetensors", ours, True),  # no model was there
        ("mine/model.safetensors", "my own file", True),
        ("mine/model.safetensors", json.dumps(CHATML._asdict(), indent=1), True),
        ("mine/model.safetensors", ours, False),
        ("mine.h5", ours, True),
        ("mine.h5", ours, False),
    ):
        file.write_text(content)
        lm.save(name)
        assert file.exists() == stays, (name, content)


@pytest.mark.slow
def test_a_run_leaves_a_chat_template_where_no_model_was(workplace: Path) -> None:
    write_lines(Path("pairs.jsonl"), *[PAIR] * 8)
    Path("chat.json").write_text("my own file")
    finetune("pairs.jsonl", "model.safetensors", steps=2, save_every=1)
    assert Path("chat.json").read_text() == "my own file"


@pytest.mark.slow
def test_the_template_of_chats_stays_with_the_model(workplace: Path) -> None:
    write_lines(Path("chats.jsonl"), *[CHAT] * 8)
    write_lines(Path("pairs.jsonl"), *[PAIR] * 8)
    Path("chatml.json").write_text(format_template(CHATML))
    finetune("chats.jsonl", "a.h5", chat_template="chatml.json", val_fraction=0.25)
    for name in ("a", "a-last"):
        assert open_model(f"{name}.h5").chat_template == CHATML
    # Adapters, a merged model and a saved one have the template of the model that they come from.
    finetune("pairs.jsonl", "b.h5", model="a.h5", lora_rank=1)
    merge(MergeSettings(adapters="b.h5", output="c/model.safetensors"))
    gpt_tf2.load("c", engine="graph").save("d.ckpt")
    for name in ("b.h5", "c", "d.ckpt"):
        assert open_model(name).chat_template == CHATML
    with pytest.raises(InputError, match=r"^the chat template has changed since the run began"):
        finetune("chats.jsonl", "a.h5", val_fraction=0.25, resume=True)
    finetune("pairs.jsonl", "a.h5")  # a model without one replaces it
    assert open_model("a.h5").chat_template is None and not Path("a/chat.json").exists()


def test_the_perplexity_of_completions_is_that_of_the_loss_in_training(workplace: Path) -> None:
    values = [PAIR, CHAT, {"text": "Lanterns burned"}, {"messages": CHAT["messages"] + CHAT["messages"][1:]}]
    write_lines(Path("d.jsonl"), *values)
    settings = EvaluateSettings(data="d.jsonl", task="jsonl", model="tiny", engine="graph", max_new_tokens=4)
    scores = run_evaluate(settings, is_written=False, is_shown=False)
    assert scores["completions"]["all"]["turns"] == 4  # the text asks for nothing
    task, model = find_task("jsonl"), gpt_tf2.load_model("models/tiny")
    tokenizer = Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    tokens = prepare_in_memory(task, "d.jsonl", "train", tokenizer, lambda done, total: None)
    batches = PackedExamples(tokens, np.arange(4), 64, True, tokenizer.end_of_text).windows(1, 4)
    losses = [(float(BlockwiseModel(model, ()).loss(batch)), batch.weights.sum()) for batch in batches]
    nats, count = np.sum(losses, axis=0)
    expected = {"perplexity per token": pytest.approx(math.exp(nats / count), rel=1e-4), "tokens": count}
    assert scores["the data's completions"]["all"] == expected


def test_a_resumed_measurement_measures_only_the_rest(workplace: Path) -> None:
    tokenizer = Tokenizer("models/tiny/encoder.json", "models/tiny/vocab.bpe")
    decoder = open_decoder(open_model("models/tiny"), "graph", "float32", print, lambda done, total: None)
    examples = [to_example(value, "d:1", DEFAULT_TEMPLATE) for value in (PAIR, CHAT, {"text": "Lanterns"})]

    def measure(name: str, count: int) -> tuple[dict[str, float], list[int]]:
        journal, done = SharedJournal(Path(name), "job", Workers()), []
        figures = measure_completions(
            [decoder], tokenizer, examples[:count], Workers(), journal, lambda now, total: done.append(now)
        )
        return figures, done

    first = measure("resumed", 1)
    assert first[1] == [1] and measure("resumed", 1) == (first[0], [])
    assert measure("resumed", 3) == (measure("whole", 3)[0], [2, 3])


def test_completions_longer_than_the_context_have_a_perplexity(workplace: Path) -> None:
    text = Path("story.txt").read_text()[:700]
    write_lines(Path("d.jsonl"), {"text": text})
    settings = EvaluateSettings(data="d.jsonl", task="jsonl", model="tiny", engine="graph", max_new_tokens=4)
    scores = run_evaluate(settings, is_written=False, is_shown=False)
    lm = gpt_tf2.load("models/tiny", engine="graph", precision="float32")
    # The end of text is learned as well.
    logprobs = [logprob for _, _, logprob in lm.logprobs(f"{text}<|endoftext|>")]
    expected = {"perplexity per token": pytest.approx(math.exp(-np.mean(logprobs)), rel=1e-4), "tokens": len(logprobs)}
    assert len(logprobs) > 128 and scores == {"the data's completions": {"all": expected}}


@pytest.mark.slow
def test_a_run_validates_on_the_files_of_another_split(workplace: Path) -> None:
    write_lines(Path("d/train.jsonl"), *[PAIR] * 8)
    write_lines(Path("d/validation.jsonl"), CHAT)  # a template is kept for what is learned, not for what is validated
    settings = {"task": "jsonl", "epochs": 1, "steps": 2, "length": 64, "precision": "float32", "verbose": 0}
    result = gpt_tf2.finetune("d", model="tiny", val_split="val", output="./m-val.h5", **settings)
    assert open_model("m-val-last.h5").chat_template is None
    scores = gpt_tf2.evaluate(
        "d", model="m-val-last.h5", task="jsonl", split="val", engine="graph", max_new_tokens=4, verbose=0
    )
    perplexity = scores["the data's completions"]["all"]["perplexity per token"]
    assert result.history["val_loss"] == [pytest.approx(math.log(perplexity), rel=1e-4)]
    with pytest.raises(gpt_tf2.InputError, match=r"^val_split=: was val when the run began"):
        gpt_tf2.finetune("d", model="tiny", output="./m-val.h5", resume=True, **settings)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data=d/train.jsonl"], ["--val_split val: holds the same as the training split: give --val_fraction"]),
        (["--data=d", "--val_fraction=0.5"], ["--val_split val: is validated on, so nothing is held out"]),
        (["--data=d", "--val_split=train"], ["--val_split train: jsonl has val, test: use one"]),
        (["--data=d", "--val_split=test"], ["--data d: no test.jsonl in it, only train, val: give one of these"]),
        (["--data=story.txt", "--task=text"], ["--val_split val: text has no other: use --val_fraction"]),
    ],
)
def test_a_split_that_cannot_be_validated_on_is_one_line(
    flags: list[str], words: list[str], workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    write_lines(Path("d/train.jsonl"), *[PAIR] * 8)
    write_lines(Path("d/val.jsonl"), PAIR)
    command = ["finetune", "--model=tiny", "--task=jsonl", "--val_split=val", "--length=64", "--steps=1", *flags]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words), err


@pytest.mark.slow
def test_preferences_of_another_split_have_a_reference_of_their_own(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    pairs = [{"prompt": "The tide", "chosen": f" counted {n} boats", "rejected": f" lost {n} bells"} for n in range(9)]
    write_lines(Path("d/train.jsonl"), *pairs[:6])
    write_lines(Path("d/val.jsonl"), *pairs[6:])
    flags = ["--objective=dpo", "--val_split=val", "--precision=float32", "--epochs=1", "--steps=1", "--length=32"]
    assert main(["finetune", "--data=d", "--task=preferences", "--model=tiny", *flags]) == 0
    out = capsys.readouterr().out  # the model that it begins with prefers neither: both losses are ln 2
    assert "validation loss after 0 steps: 0.6931" in out and "step 1/1 · loss 0.693 " in out
