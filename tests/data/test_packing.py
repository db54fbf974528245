"""Examples of different lengths in one row: nothing of one shows in another. Runs on either backend."""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2 import FinetuneSettings, InputError, finetune, load_model
from gpt_tf2.data import packing
from gpt_tf2.data.batches import Batch
from gpt_tf2.data.encoding import COMPLETION
from gpt_tf2.data.packing import PackedExamples
from gpt_tf2.data.prepared import Tokens, prepare
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tokenizer import Tokenizer
from helpers import made_up as madeup
from helpers.gradients import loss_and_gradients

LENGTH = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packing")
    madeup.write_stories(folder / "stories", train=80)
    madeup.write_conversations(folder / "talks", train=40)
    madeup.write_model(folder / "model", LENGTH)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "model" / "encoder.json", folder / "model" / "vocab.bpe")


def tokens_of(data_loader: str, path: Path, tokenizer: Tokenizer) -> Tokens:
    return prepare(find_task(data_loader), str(path), "train", tokenizer, None, lambda done, total: None, lambda: None)


@pytest.fixture(scope="module", params=["cnndm", "coqa"])
def tokens(request: pytest.FixtureRequest, folder: Path, tokenizer: Tokenizer) -> Tokens:
    return tokens_of(request.param, folder / {"cnndm": "stories", "coqa": "talks"}[request.param], tokenizer)


def packed(tokens: Tokens, completion_only: bool = True, length: int = LENGTH, **options: int) -> PackedExamples:
    return PackedExamples(tokens, np.arange(len(tokens.shortest)), length, completion_only, 511, **options)


def apart(batch: Batch) -> list[Batch]:
    """Each example of a batch as a batch of its own."""
    found = []
    width = batch.tokens.shape[1]
    for row in range(len(batch.tokens)):
        for segment in range(1, batch.segments[row].max() + 1):
            places = np.flatnonzero(batch.segments[row] == segment)
            inside = np.isin(batch.picks, places + row * width) & (batch.weights > 0)
            found.append(
                Batch(
                    tokens=batch.tokens[row, places][None],
                    positions=np.arange(len(places), dtype="int32")[None],
                    segments=np.ones((1, len(places)), "int32"),
                    picks=(batch.picks[inside] - row * width - places[0]).astype("int32"),
                    targets=batch.targets[inside],
                    weights=np.ones(int(inside.sum()), "float32"),
                )
            )
    return found


@pytest.mark.parametrize("completion_only", [True, False])
def test_packed_and_one_by_one_give_the_same_loss_and_gradients(
    folder: Path, tokens: Tokens, completion_only: bool
) -> None:
    model = load_model(folder / "model")
    batch = packed(tokens, completion_only).batch(seed=0, step=3, batch_size=2)
    singles = apart(batch)
    assert len(singles) > 2 and batch.segments.max() > 1  # several share a row
    loss, gradients = loss_and_gradients(model, batch)
    shares = [single.weights.sum() / batch.weights.sum() for single in singles]
    found = [loss_and_gradients(model, single) for single in singles]
    assert sum(shares) == pytest.approx(1)
    assert loss == pytest.approx(sum(s * one for s, (one, _) in zip(shares, found, strict=True)), rel=1e-5)
    for name, gradient in gradients.items():
        expected = sum(s * one[name] for s, (_, one) in zip(shares, found, strict=True))
        assert np.abs(gradient - expected).max() <= 1e-5 * np.abs(expected).max(), name


def test_the_loss_on_completions_is_the_masked_loss_on_all(folder: Path, tokens: Tokens) -> None:
    model = load_model(folder / "model")
    alone = packed(tokens).batch(seed=0, step=0, batch_size=2)
    whole = packed(tokens, completion_only=False).batch(seed=0, step=0, batch_size=2)
    assert np.array_equal(alone.tokens, whole.tokens)
    learned = np.isin(whole.picks, alone.picks[alone.weights > 0]).astype("float32") * whole.weights
    assert 0 < learned.sum() < whole.weights.sum() / 2
    masked, _ = loss_and_gradients(model, dataclasses.replace(whole, weights=learned))
    assert loss_and_gradients(model, alone)[0] == pytest.approx(masked, rel=1e-6)


def test_a_conversation_is_learned_answer_by_answer_with_what_ends_each(folder: Path, tokenizer: Tokenizer) -> None:
    tokens = tokens_of("coqa", folder / "talks", tokenizer)
    single = apart(packed(tokens).batch(seed=0, step=0, batch_size=1))[0]
    text = tokenizer.decode(single.tokens[0])
    assert text.startswith("Once there was") and text.count("\n Q: ") == 4 and text.endswith("<|endoftext|>")
    answers = [part.split("\n Q:")[0].removesuffix("<|endoftext|>") for part in text.split("\n A:")[1:]]
    assert tokenizer.decode(single.targets) == "\n".join(answers) + "<|endoftext|>"
    assert np.array_equal(single.tokens[0, single.picks + 1], single.targets)


def test_every_example_comes_once_before_any_comes_again(folder: Path, tokenizer: Tokenizer) -> None:
    tokens = tokens_of("coqa", folder / "talks", tokenizer)
    passages = Counter(tokens.span(int(first)).tobytes() for first in tokens.first_spans[:-1])
    data, seen, step = packed(tokens), Counter(), 0
    while seen.total() < packing.POOL:
        for single in apart(data.batch(seed=5, step=step, batch_size=4)):
            ids = single.tokens[0].astype(tokens.tokens.dtype).tobytes()
            seen.update(passage for passage in passages if ids.startswith(passage))
        step += 1
    assert seen.total() == packing.POOL  # no batch has examples of two pools
    passes = packing.POOL // passages.total()
    assert all(passes * count <= seen[passage] <= (passes + 1) * count for passage, count in passages.items())


def test_a_batch_is_a_function_of_seed_and_step(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "POOL", 16)  # so that steps lie in several pools
    data = packed(tokens)
    batches = [data.batch(seed=1, step=step, batch_size=2) for step in range(200)]
    for step in (150, 199, 3):
        again = packed(tokens).batch(seed=1, step=step, batch_size=2)
        assert all(np.array_equal(getattr(again, name), getattr(batches[step], name)) for name in vars(again))
    other = packed(tokens).batch(seed=2, step=3, batch_size=2)
    assert other.tokens.shape != batches[3].tokens.shape or not np.array_equal(other.tokens, batches[3].tokens)


def test_next_to_nothing_is_padding(tokens: Tokens) -> None:
    data = packed(tokens)
    batches = [data.batch(seed=0, step=step, batch_size=4) for step in range(100)]
    assert all(batch.tokens.shape[0] == 4 and batch.tokens.shape[1] <= LENGTH for batch in batches)
    assert sum(batch.size for batch in batches) > 0.97 * sum(batch.tokens.size for batch in batches)


def test_one_of_several_completions_is_drawn_alike(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "POOL", 64)
    madeup.write_stories(tmp_path, train=1)
    story = next(tmp_path.rglob("*.story"))
    story.write_text("News.\n\n@highlight\n\nOne\n\n@highlight\n\nTwo\n\n@highlight\n\nThree")
    data = packed(tokens_of("cnndm", tmp_path, tokenizer))
    drawn = Counter()
    for step in range(40):  # whole pools: within one, rows of the same length stand together
        for single in apart(data.batch(seed=0, step=step, batch_size=1)):
            drawn[tokenizer.decode(single.targets)] += 1
    assert set(drawn) == {f"\n\n{word}<|endoftext|>" for word in ("One\n\n", "Two\n\n", "Three")}
    expected = sum(drawn.values()) / 3
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 13.8  # one in a thousand


def test_of_a_conversation_as_many_turns_are_used_as_fit(folder: Path, tokenizer: Tokenizer) -> None:
    tokens = tokens_of("coqa", folder / "talks", tokenizer)
    whole = apart(packed(tokens).batch(seed=0, step=0, batch_size=4))
    longest = max(single.tokens.size for single in whole)
    shorter = apart(packed(tokens, length=longest - 10).batch(seed=0, step=0, batch_size=4))
    turns = [tokenizer.decode(single.tokens[0]).count("\n Q:") for single in shorter]
    assert set(turns) <= {3, 4} and 3 in turns
    assert all(tokenizer.decode(single.tokens[0]).endswith("<|endoftext|>") for single in shorter)


def test_what_not_even_fits_with_one_turn_is_left_out(tokens: Tokens) -> None:
    middle = int(np.median(tokens.shortest))
    data = packed(tokens, length=middle)
    assert len(data.examples) == (tokens.shortest <= middle).sum() < len(tokens.shortest)
    assert max(data.batch(0, step, 1).tokens.shape[1] for step in range(30)) <= middle


def test_where_shapes_are_compiled_there_are_few(tokens: Tokens) -> None:
    data = packed(tokens, multiple=LENGTH // 4)
    shapes = {(batch.tokens.shape, batch.picks.shape) for batch in (data.batch(0, step, 2) for step in range(100))}
    assert len(shapes) <= 4
    assert all(width % (LENGTH // 4) == 0 for (_, width), _ in shapes)


def test_validation_is_always_the_same_and_spread(tokens: Tokens) -> None:
    windows = list(packed(tokens).windows(batch_size=2, most=10))
    assert sum(len(apart(batch)) for batch in windows) == 10
    again = list(packed(tokens).windows(batch_size=2, most=10))
    assert all(np.array_equal(one.tokens, other.tokens) for one, other in zip(windows, again, strict=True))


def test_kinds_alternate(tokens: Tokens) -> None:
    assert tokens.kinds[0] == 0 and tokens.first_spans[-1] == len(tokens.kinds) == len(tokens.ends)
    assert (tokens.kinds == COMPLETION).sum() >= len(tokens.shortest)
    assert tokens.ends[-1] == len(tokens.tokens)


def test_resuming_on_examples_is_exact(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "model", "models/small")
    settings = FinetuneSettings(
        dataset_path=str(folder / "talks"),
        data_loader="coqa",
        model="small",
        num_epoch=2,
        steps_per_epoch=5,
        batch_size=2,
        length=LENGTH,
        val_fraction=0.2,
        sample_every=4,
        dropout=0.1,
        output_name="whole.h5",
    )
    whole = load_model(finetune(settings))
    finetune(dataclasses.replace(settings, num_epoch=1, output_name="parts.h5"))
    parts = load_model(finetune(dataclasses.replace(settings, output_name="parts.h5", resume=True)))
    for name, variable in whole.tensors().items():
        assert np.array_equal(np.asarray(variable), np.asarray(parts.tensors()[name])), name
    with pytest.raises(InputError, match="--loss_on is 'all' now, 'completion' when the run began"):
        finetune(dataclasses.replace(settings, output_name="parts.h5", resume=True, loss_on="all"))
