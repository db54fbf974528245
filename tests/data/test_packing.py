"""Several examples in one packed sequence: none sees another, each comes as often. Runs on either backend."""

import dataclasses
import itertools
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import InputError, load_model
from gpt_tf2.commands.finetune import run_finetune
from gpt_tf2.commands.finetune_settings import FinetuneSettings
from gpt_tf2.data import packing
from gpt_tf2.data.batches import Batch
from gpt_tf2.data.encoding import COMPLETION, PASSAGE, PROMPT
from gpt_tf2.data.packing import PackedExamples
from gpt_tf2.data.prepared import Tokens, prepare
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tokenizer import Tokenizer
from gpt_tf2.training.blockwise import BlockwiseModel
from helpers import made_up
from helpers.gradients import compute_gradients

LENGTH = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packing")
    made_up.write_stories(folder / "stories", train=80)
    made_up.write_conversations(folder / "talks", train=40)
    made_up.write_model(folder / "model", LENGTH)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "model" / "encoder.json", folder / "model" / "vocab.bpe")


@pytest.fixture(scope="module")
def model(folder: Path) -> BlockwiseModel:
    model = load_model(folder / "model")
    return BlockwiseModel(model, model.tensors())


def prepare_tokens(data_loader: str, path: Path, tokenizer: Tokenizer) -> Tokens:
    return prepare(find_task(data_loader), str(path), "train", tokenizer, None, lambda done, total: None, lambda: None)


@pytest.fixture(scope="module", params=["cnndm", "coqa"])
def tokens(request: pytest.FixtureRequest, folder: Path, tokenizer: Tokenizer) -> Tokens:
    return prepare_tokens(request.param, folder / {"cnndm": "stories", "coqa": "talks"}[request.param], tokenizer)


def pack(tokens: Tokens, completion_only: bool = True, length: int = LENGTH, **options: int) -> PackedExamples:
    return PackedExamples(tokens, np.arange(len(tokens.shortest)), length, completion_only, 511, **options)


def separate(batch: Batch) -> list[Batch]:
    """Each example of a batch as a batch of its own."""
    singles = []
    width = batch.tokens.shape[1]
    for number in range(len(batch.tokens)):
        for segment in range(1, batch.segments[number].max() + 1):
            positions = np.flatnonzero(batch.segments[number] == segment)
            inside = np.isin(batch.picks, positions + number * width) & (batch.weights > 0)
            singles.append(
                Batch(
                    tokens=batch.tokens[number, positions][None],
                    positions=np.arange(len(positions), dtype="int32")[None],
                    segments=np.ones((1, len(positions)), "int32"),
                    picks=(batch.picks[inside] - number * width - positions[0]).astype("int32"),
                    targets=batch.targets[inside],
                    weights=np.ones(int(inside.sum()), "float32"),
                )
            )
    return singles


@pytest.mark.parametrize("completion_only", [True, False])
def test_packed_examples_give_the_loss_and_gradients_of_single_ones(
    model: BlockwiseModel, tokens: Tokens, completion_only: bool
) -> None:
    batch = pack(tokens, completion_only).batch(seed=0, step=3, batch_size=2)
    singles = separate(batch)
    assert len(singles) > 2 and batch.segments.max() > 1  # several share a sequence
    loss, gradients = compute_gradients(model, batch)
    shares = [single.weights.sum() / batch.weights.sum() for single in singles]
    assert sum(shares) == pytest.approx(1)
    results = [compute_gradients(model, single) for single in singles]
    assert loss == pytest.approx(sum(single_loss for single_loss, _ in results), rel=1e-5)
    for name, gradient in gradients.items():
        expected = sum(s * single[name] for s, (_, single) in zip(shares, results, strict=True))
        assert np.abs(gradient - expected).max() <= 1e-5 * np.abs(expected).max(), name


def test_the_loss_on_completions_is_the_masked_loss_on_everything(model: BlockwiseModel, tokens: Tokens) -> None:
    completions = pack(tokens).batch(seed=0, step=0, batch_size=2)
    everything = pack(tokens, completion_only=False).batch(seed=0, step=0, batch_size=2)
    assert np.array_equal(completions.tokens, everything.tokens)
    is_completion = np.isin(everything.picks, completions.picks[completions.weights > 0])
    weights = is_completion.astype("float32") * everything.weights
    assert 0 < weights.sum() < everything.weights.sum() / 2
    masked = dataclasses.replace(everything, weights=weights)
    assert float(model.loss(completions)) == pytest.approx(float(model.loss(masked)), rel=1e-6)
    assert completions.weights.sum() == weights.sum()


def test_the_loss_of_a_conversation_is_on_every_answer_and_its_end(folder: Path, tokenizer: Tokenizer) -> None:
    tokens = prepare_tokens("coqa", folder / "talks", tokenizer)
    single = separate(pack(tokens).batch(seed=0, step=0, batch_size=1))[0]
    text = tokenizer.decode(single.tokens[0])
    assert text.startswith("Once there was") and text.count("\n Q: ") == 4 and text.endswith("<|endoftext|>")
    answers = [part.split("\n Q:")[0].removesuffix("<|endoftext|>") for part in text.split("\n A:")[1:]]
    assert tokenizer.decode(single.targets) == "\n".join(answers) + "<|endoftext|>"
    assert np.array_equal(single.tokens[0, single.picks + 1], single.targets)


def test_no_example_repeats_before_all_have_come(folder: Path, tokenizer: Tokenizer) -> None:
    tokens = prepare_tokens("coqa", folder / "talks", tokenizer)
    passages = Counter(tokens.span(int(first)).tobytes() for first in tokens.first_spans[:-1])
    data, seen, step = pack(tokens), Counter(), 0
    while seen.total() < packing.POOL:
        for single in separate(data.batch(seed=5, step=step, batch_size=4)):
            ids = single.tokens[0].astype(tokens.tokens.dtype).tobytes()
            seen.update(passage for passage in passages if ids.startswith(passage))
        step += 1
    assert seen.total() == packing.POOL  # no batch has examples of two pools
    passes = packing.POOL // passages.total()
    assert all(passes * count <= seen[passage] <= (passes + 1) * count for passage, count in passages.items())


def test_a_batch_is_a_function_of_seed_and_step(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "POOL", 16)  # so that steps lie in several pools
    data = pack(tokens)
    batches = [data.batch(seed=1, step=step, batch_size=2) for step in range(200)]
    for step in (150, 199, 3):
        again = pack(tokens).batch(seed=1, step=step, batch_size=2)
        assert all(np.array_equal(getattr(again, name), getattr(batches[step], name)) for name in vars(again))
    other = pack(tokens).batch(seed=2, step=3, batch_size=2)
    assert other.tokens.shape != batches[3].tokens.shape or not np.array_equal(other.tokens, batches[3].tokens)


def test_less_than_3_percent_is_padding(tokens: Tokens) -> None:
    data = pack(tokens)
    batches = [data.batch(seed=0, step=step, batch_size=4) for step in range(100)]
    assert all(batch.tokens.shape[0] == 4 and batch.tokens.shape[1] <= LENGTH for batch in batches)
    assert sum(batch.size for batch in batches) > 0.97 * sum(batch.tokens.size for batch in batches)


def test_each_of_several_completions_is_drawn_equally_often(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "POOL", 64)
    made_up.write_stories(tmp_path, train=1)
    story = next(tmp_path.rglob("*.story"))
    story.write_text("News.\n\n@highlight\n\nOne\n\n@highlight\n\nTwo\n\n@highlight\n\nThree")
    data = pack(prepare_tokens("cnndm", tmp_path, tokenizer))
    drawn = Counter()
    for step in range(40):  # whole pools: within one, sequences of similar lengths share batches
        for single in separate(data.batch(seed=0, step=step, batch_size=1)):
            drawn[tokenizer.decode(single.targets)] += 1
    assert set(drawn) == {f"\n\n{word}<|endoftext|>" for word in ("One\n\n", "Two\n\n", "Three")}
    expected = sum(drawn.values()) / 3
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 13.8  # one in a thousand


def test_a_conversation_is_cut_after_the_last_turn_that_fits(folder: Path, tokenizer: Tokenizer) -> None:
    tokens = prepare_tokens("coqa", folder / "talks", tokenizer)
    whole = separate(pack(tokens).batch(seed=0, step=0, batch_size=4))
    longest = max(single.tokens.size for single in whole)
    shorter = separate(pack(tokens, length=longest - 10).batch(seed=0, step=0, batch_size=4))
    turns = [tokenizer.decode(single.tokens[0]).count("\n Q:") for single in shorter]
    assert set(turns) <= {3, 4} and 3 in turns
    assert all(tokenizer.decode(single.tokens[0]).endswith("<|endoftext|>") for single in shorter)


def test_examples_that_do_not_fit_with_one_turn_are_skipped_if_asked(tokens: Tokens) -> None:
    middle = int(np.median(tokens.shortest))
    data = pack(tokens, length=middle, shortens=False)
    assert len(data.examples) == (tokens.shortest <= middle).sum() < len(tokens.shortest)
    assert max(data.batch(0, step, 1).tokens.shape[1] for step in range(30)) <= middle


def test_a_passage_is_shortened_at_its_end_so_that_the_first_turn_fits(tokens: Tokens) -> None:
    length = int(np.median(tokens.shortest))
    batches = pack(tokens, length=length).windows(batch_size=2, most=len(tokens.shortest))
    singles = {single.tokens.tobytes(): single for batch in batches for single in separate(batch)}
    too_long = np.flatnonzero(tokens.shortest > length)
    assert len(too_long) > 10
    for first in tokens.first_spans[too_long].tolist():
        passage, prompt, completion = (tokens.span(first + i).tolist() for i in range(3))
        learned = [*completion, 511]
        kept = passage[: length - len(prompt) - len(learned)]
        single = singles[np.array([*kept, *prompt, *learned], "int32").tobytes()]
        assert single.targets.tolist() == learned


def test_a_shortened_story_leaves_room_for_whichever_highlight_is_drawn(tmp_path: Path, tokenizer: Tokenizer) -> None:
    made_up.write_stories(tmp_path, train=2)
    highlights = ["Fog hung", "Then the baker found the boat in the harbour", "Rain fell " * 50]
    story, other = sorted(tmp_path.rglob("*.story"))
    story.write_text("The sun stood over the village. " * 30 + "".join(f"\n\n@highlight\n\n{h}" for h in highlights))
    other.write_text("Snow lay.\n\n@highlight\n\n" + "Rain fell " * 50)
    data, texts = pack(prepare_tokens("cnndm", tmp_path, tokenizer), length=64), set()
    assert len(data.examples) == 1  # the other's highlight does not fit without its article
    for single in separate(data.batch(seed=0, step=0, batch_size=64)):
        assert single.tokens.size == 64
        article, _, highlight = tokenizer.decode(single.tokens[0]).partition("\nTL;DR:\n")
        assert article.startswith("The sun stood over the village.")
        texts.add(highlight)
    assert texts == {f"\n\n{highlight}\n\n<|endoftext|>" for highlight in highlights[:2]}


def test_rounded_batches_have_few_shapes(tokens: Tokens) -> None:
    data = pack(tokens, multiple=LENGTH // 4)
    shapes = {(batch.tokens.shape, batch.picks.shape) for batch in (data.batch(0, step, 2) for step in range(100))}
    assert len(shapes) <= 4
    assert all(width % (LENGTH // 4) == 0 for (_, width), _ in shapes)


def test_validation_examples_are_always_the_same_and_evenly_spread(tokens: Tokens) -> None:
    windows = list(pack(tokens).windows(batch_size=2, most=10))
    singles = [single.tokens[0] for batch in windows for single in separate(batch)]
    assert len(singles) == 10
    spread = np.arange(10) * len(tokens.shortest) // 10
    for passage in (tokens.span(first) for first in tokens.first_spans[spread]):
        assert any(np.array_equal(single[: len(passage)], passage) for single in singles)
    again = list(pack(tokens).windows(batch_size=2, most=10))
    assert all(np.array_equal(one.tokens, other.tokens) for one, other in zip(windows, again, strict=True))


def test_an_examples_spans_are_its_passage_and_then_prompts_with_their_completions(tokens: Tokens) -> None:
    assert tokens.first_spans[0] == 0 and tokens.first_spans[-1] == len(tokens.kinds) == len(tokens.ends)
    assert tokens.ends[-1] == len(tokens.tokens) and (np.diff(tokens.ends) >= 0).all()
    assert len(tokens.first_spans) == len(tokens.shortest) + 1
    letters = {PASSAGE: "a", PROMPT: "p", COMPLETION: "c"}
    for first, last in itertools.pairwise(tokens.first_spans.tolist()):
        kinds = "".join(letters[kind] for kind in tokens.kinds[first:last].tolist())
        assert re.fullmatch("a(pc+)+", kinds)


@pytest.mark.slow
def test_a_run_on_examples_resumes_exactly(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "model", "models/small")
    settings = FinetuneSettings(
        data=str(folder / "talks"),
        task="coqa",
        model="small",
        epochs=2,
        steps=5,
        batch_size=2,
        length=LENGTH,
        val_fraction=0.2,
        sample_every=0,
        dropout=0.1,
        output_name="whole.h5",
    )
    whole = load_model(run_finetune(settings))
    run_finetune(dataclasses.replace(settings, epochs=1, output_name="parts.h5"))
    parts = load_model(run_finetune(dataclasses.replace(settings, output_name="parts.h5", resume=True)))
    for name, variable in whole.tensors().items():
        assert np.array_equal(np.asarray(variable), np.asarray(parts.tensors()[name])), name
    with pytest.raises(InputError, match="loss_on=all: was completion when the run began"):
        run_finetune(dataclasses.replace(settings, output_name="parts.h5", resume=True, loss_on="all"))
