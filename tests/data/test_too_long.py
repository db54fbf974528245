"""Stories as long as CNN/Daily Mail's: none is left out of a run by default."""

import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gpt_tf2.data.dataset import Silent, Source, TrainingData, open_training_data
from gpt_tf2.data.packing import PackedExamples
from gpt_tf2.tasks.lookup import find_task
from gpt_tf2.tasks.task import Reading
from gpt_tf2.tokenizer import Tokenizer
from helpers import made_up

WORDS, SPREAD = 781, 0.5  # per article: the mean (See et al. 2017, section 4), and the deviation of the logarithm
STORIES, LENGTH = 80, 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of stories, and their vocabulary."""
    folder, draw = tmp_path_factory.mktemp("long"), random.Random(0)
    stories = []
    for _ in range(STORIES):
        words = int(draw.lognormvariate(0, SPREAD) * WORDS / 2.718 ** (SPREAD**2 / 2))
        articles, highlights = zip(*(made_up.make_story(draw) for _ in range(1 + words // 25)), strict=True)
        stories.append((" ".join(" ".join(articles).split()[:words]), "\n".join(highlights[:4])))
    articles, highlights = zip(*stories, strict=True)
    pyarrow.parquet.write_table(
        pyarrow.table({"article": articles, "highlights": highlights}), folder / "train.parquet"
    )
    made_up.write_vocabulary(folder)
    return folder


def open_stories(folder: Path, highlights: str, shortens: bool) -> TrainingData:
    tokenizer = Tokenizer(folder / "encoder.json", folder / "vocab.bpe")
    source = Source(find_task("cnndm", Reading(highlights=highlights)), str(folder), tokenizer)
    return open_training_data(source, LENGTH, 0.0, True, Silent(), shortens)


@pytest.mark.parametrize("highlights", ["one", "all"])
def test_no_story_is_left_out_by_default(folder: Path, highlights: str) -> None:
    data = open_stories(folder, highlights, shortens=True)
    (line,) = data.report[1:]
    count = int(line.split()[1])
    assert line == f"shortened {count} examples longer than 1024 tokens at the end of their passage"
    assert 0.25 * STORIES < count < 0.6 * STORIES and data.is_shortened
    training, _ = data.make_batches(False)
    assert isinstance(training, PackedExamples)
    batches = list(training.windows(batch_size=4, most=STORIES))
    assert sum(int(batch.segments.max(axis=1).sum()) for batch in batches) == STORIES
    assert max(batch.tokens.shape[1] for batch in batches) == LENGTH
    assert 0 < len(data.prompt) < LENGTH

    skipping = open_stories(folder, highlights, shortens=False)
    assert skipping.report[1:] == [f"skipped {count} examples longer than 1024 tokens"]
    assert not skipping.is_shortened and skipping.key == data.key


def test_a_text_that_fills_the_length_is_not_shortened_at_the_end_of_a_passage(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(folder / "encoder.json", folder / "vocab.bpe")
    text = "The tide counted the boats home."
    length = len(tokenizer.encode(text)) + 1  # with its end, but without the token that it begins with
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": text}) + "\n")
    source = Source(find_task("jsonl"), str(tmp_path / "d.jsonl"), tokenizer, in_memory=True)
    data = open_training_data(source, length, 0.0, True, Silent())
    assert len(data.report) == 1 and data.is_shortened  # yet `too_long` decides whether it is there
