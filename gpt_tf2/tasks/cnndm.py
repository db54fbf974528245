"""The task `cnndm`: summaries of stories by CNN and the Daily Mail (Hermann et al. 2015)."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ftfy

from gpt_tf2.errors import InputError
from gpt_tf2.scoring import rouge
from gpt_tf2.scoring.sentences import join_tagged, share_with_repeats, split_sentences, tokenize
from gpt_tf2.storage.files import read_utf8
from gpt_tf2.tasks.task import Example, Prediction, Scores, Turn, Unusable

SPLITS = ("train", "val", "test")
STOP = ""
DRAFTS = True  # summaries copy from their article
NAMES = ("article", "highlights")
SUFFIX = ".txt"
SEPARATOR = "\nTL;DR:\n"
LEAD = 3  # sentences of the baseline and of a summary (Radford et al. 2019, section 3.6)

DAILY_MAIL = ("dailymail.co.uk", "mailonsunday.ie", "lib.store.yahoo.net")
HIGHLIGHT = "@highlight"
DATELINE = "(CNN) --"
AND_LINE = re.compile(r"\A\s*and \S+[^\S\n]*\n")
UPDATED = re.compile(r"UPDATED:\s*\d\d?:\d\d[^\n]*20\d\d[^\n]*")
FIX = "give the folder of url_lists/ and cnn/, or of Parquet files such as train.parquet"


class StoryFile(NamedTuple):
    """A story in the layout of `url_lists/`, `cnn/stories/` and `dailymail/stories/`."""

    folder: str
    url: str


class ParquetStory(NamedTuple):
    """A story in a Parquet file. highlights: one per line, or a list."""

    name: str
    article: Any
    highlights: Any


def items(dataset_path: str, split: str) -> Iterable[StoryFile | ParquetStory]:
    """The stories named in `url_lists/all_SPLIT.txt`, in its order, or the rows of the split's Parquet files.

    Args:
        dataset_path: the folder of `url_lists/`; a folder of Parquet files whose names, or whose folders' names, begin
            with the split's name; or one Parquet file.

    Raises InputError if there are none, or if a file cannot be read or lacks the column `article` or `highlights`.
    """
    folder = Path(dataset_path)
    if folder.suffix == ".parquet":
        return ParquetRows([folder])
    urls = folder / "url_lists" / f"all_{split}.txt"
    if not urls.parent.is_dir():
        files = sorted(path for path in folder.rglob("*.parquet") if is_of_split(path, split))
        if files:
            return ParquetRows(files)
    return [StoryFile(dataset_path, url) for url in read_utf8(urls, FIX, "download it again").split()]


def is_of_split(path: Path, split: str) -> bool:
    """Whether a Parquet file, or its folder, is named after a split."""
    return path.name.startswith(split) or path.parent.name.startswith(split)


class ParquetRows:
    """The rows of Parquet files, read a few hundred at a time. The column `id` names them if there is one."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.rows = 0
        for path in paths:
            with open_parquet(path) as file:
                self.rows += file.metadata.num_rows

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[ParquetStory]:
        import pyarrow

        for path in self.paths:
            with open_parquet(path) as file:
                columns = [name for name in ("article", "highlights", "id") if name in file.schema_arrow.names]
                number = 0
                try:
                    for batch in file.iter_batches(batch_size=256, columns=columns):
                        for row in batch.to_pylist():
                            number += 1
                            name = str(row.get("id") or f"{path}:{number}")
                            yield ParquetStory(name, row["article"], row["highlights"])
                except (OSError, pyarrow.ArrowException) as error:
                    raise InputError(f"{path}: damaged after row {number} ({error}): download it again") from None


def open_parquet(path: Path) -> Any:
    """Opens a Parquet file and checks its columns."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}): download it again") from None
    names = file.schema_arrow.names
    missing = [name for name in NAMES if name not in names]
    if missing:
        file.close()
        columns = f"no column {', '.join(missing)}, only {', '.join(names)}"
        raise InputError(f"{path}: {columns}: give the data set with article and highlights")
    return file


def example(item: StoryFile | ParquetStory) -> Example:
    """The cleaned article and its highlights. Raises Unusable if either is missing, or the text is not UTF-8."""
    if isinstance(item, StoryFile):
        name = item.url
        try:
            text = (Path(item.folder) / story_path(item.url)).read_text(encoding="utf-8")
        except OSError:
            raise Unusable("no readable story file", name) from None
        except UnicodeDecodeError:
            raise Unusable("the story is not UTF-8", name) from None
    else:
        name = item.name
        lines = item.highlights.split("\n") if isinstance(item.highlights, str) else item.highlights
        if not isinstance(item.article, str) or not isinstance(lines, list):
            raise Unusable("article or highlights are not text", name)
        text = item.article + "".join(f"\n\n{HIGHLIGHT}\n\n{line}" for line in lines)
    article, *highlights = clean(text).split(HIGHLIGHT)
    highlights = [highlight for highlight in highlights if highlight.strip()]
    if not article.strip() or not highlights:
        raise Unusable("no article" if highlights else "no highlight", name)
    return Example(name, article.strip(), (Turn(SEPARATOR, tuple(highlights)),))


def story_path(url: str) -> Path:
    """The path of a URL's story within the data set."""
    site = "dailymail" if any(host in url for host in DAILY_MAIL) else "cnn"
    return Path(site, "stories", hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest() + ".story")


def clean(text: str) -> str:
    """A story, highlights included, without bylines, datelines and time stamps, its characters repaired by ftfy."""
    text = text.strip()
    if text.startswith("By"):
        text = "\n".join(text.split("\n")[2:])
    text = text.rpartition(DATELINE)[2]
    place = text.find("(CNN)", 0, 100)
    if place >= 0:
        text = text[place + len("(CNN)") :]
    text = AND_LINE.sub("", text)
    text = UPDATED.split(text)[-1]
    text = text.replace("‘", "'").replace("’", "'")
    return re.sub(r"\n{3,}", "\n\n", ftfy.fix_text(text))


def summary(text: str) -> list[str]:
    """The first sentences of a completion, tokenized."""
    return [tokenize(sentence) for sentence in split_sentences(text)[:LEAD]]


def write(predictions: Sequence[Prediction]) -> str:
    """One summary per line, its tokenized sentences in `<t> … </t>`."""
    return "".join(join_tagged(summary(prediction.completions[0])) + "\n" for prediction in predictions)


def score(predictions: Sequence[Prediction], dataset_path: str, split: str, references: str | None) -> Scores:
    """ROUGE of the summaries and of LEAD-3, the articles' first three sentences; and the share of texts that repeat.

    references: a file of tagged references, one line for each story of the split; by default all the highlights.
    """
    ours = [summary(prediction.completions[0]) for prediction in predictions]
    lead = [summary(prediction.example.passage) for prediction in predictions]
    if references is None:
        expected = [
            [tokenize(" ".join(highlight.split())) for highlight in prediction.example.turns[0].completions]
            for prediction in predictions
        ]
    else:
        lines = rouge.read_tagged(references)
        last = predictions[-1].number
        if len(lines) <= last:
            message = f"{len(lines)} lines, but {split} has at least {last + 1} stories: give one line for each story"
            raise InputError(message, "references", references)
        expected = [lines[prediction.number] for prediction in predictions]
    return {
        "summaries": rouge.to_table(rouge.score_corpus(ours, expected)),
        f"LEAD-{LEAD}": rouge.to_table(rouge.score_corpus(lead, expected)),
        "share of texts with a repeated n-gram": {
            f"{n}-gram": {"summaries": share_with_repeats(ours, n), "references": share_with_repeats(expected, n)}
            for n in (2, 3, 4)
        },
    }


def check(examples: Sequence[tuple[int, Example]], dataset_path: str, split: str, references: str | None) -> None:
    """Raises InputError if the summaries of these stories could not be scored: scores the last one's own highlight."""
    number, story = examples[-1]
    score([Prediction(number, story, story.turns[0].completions[:1])], dataset_path, split, references)
