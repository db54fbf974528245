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
from gpt_tf2.storage.text_files import ENCODING_FIX, decode, plain_suffix, read_blocks, read_text
from gpt_tf2.tasks.data_files import list_files
from gpt_tf2.tasks.json_lines import note_unnamed
from gpt_tf2.tasks.parquet import find_text_columns, iterate_rows, open_parquet
from gpt_tf2.tasks.split_names import is_split_name, split_of
from gpt_tf2.tasks.tables import read_rows, split_lines
from gpt_tf2.tasks.task import DEFAULT_READING, Example, Note, Prediction, Reading, Scores, Turn, Unusable

SPLITS = ("train", "val", "test")
READS = ("encoding", "highlights")
STOP = ""
DRAFTS = True  # summaries copy from their article
JOINS = True  # several samples make up one summary
NAMES = ("article", "highlights")
SUFFIX = ".txt"
SEPARATOR = "\nTL;DR:\n"
LEAD = 3  # sentences of the baseline and of a summary (Radford et al. 2019, section 3.6)

DAILY_MAIL = ("dailymail.co.uk", "mailonsunday.ie", "lib.store.yahoo.net")
HIGHLIGHT = "@highlight"
DATELINE = "(CNN) --"
AND_LINE = re.compile(r"\A\s*and \S+[^\S\n]*\n")
# Small words within a byline such as "By Jane Doe and John Roe for the Orrin Times".
SMALL_WORDS = {"and", "at", "da", "de", "der", "for", "from", "in", "la", "of", "the", "to", "van", "von", "&", "."}
# A time stamp is short, so that it is found, or not, in linear time. In an article of one line full stops stand where
# a story has line breaks.
STAMP = r"(?: \.)?\s*\d\d?:\d\d[^\n]{0,60}?20\d\d(?: \.)?[ \t]*"
UPDATED = re.compile(rf"(?:^[ \t|]*|PUBLISHED:{STAMP}[ |]*)UPDATED:{STAMP}", re.MULTILINE)
STAMPS = re.compile(rf"(?:PUBLISHED:{STAMP})?(?:\| (?:\. )?)?(?:UPDATED:{STAMP})?")
FIRST_LINE = re.compile(r"(By(?: \.)? \S.{0,100}?) \. ")  # of an article of one line, up to the next full stop
SECOND_AUTHOR = re.compile(r"and (\S.{0,100}?) \. ")
SHARDS = re.compile(r"-of-\d+")
FIX = "give the folder of url_lists/ and cnn/, or of tables such as train.parquet or train.csv"


class StoryFile(NamedTuple):
    """A story in the layout of `url_lists/`, `cnn/stories/` and `dailymail/stories/`.

    takes_all: whether all its highlights are one completion.
    """

    folder: str
    url: str
    encoding: str | None
    takes_all: bool


class TableStory(NamedTuple):
    """A story in a row of a table. highlights: one per line, or a list. takes_all: see `StoryFile`."""

    name: str
    article: Any
    highlights: Any
    takes_all: bool = False


def items(dataset_path: str, split: str, reading: Reading = DEFAULT_READING) -> Iterable[StoryFile | TableStory | Note]:
    """The stories named in `url_lists/all_SPLIT.txt`, in its order, or the rows of the split's tables.

    Before those a note on tables whose names tell no split, which are not read.

    Args:
        dataset_path: the folder of `url_lists/`; a folder of `.parquet` or `.csv` files whose names, or the names of
            whose folders in it, tell the split; or one such file.

    Raises InputError if there are none, if the split is there more than once, or if a file cannot be read or lacks the
    column `article` or `highlights`; of a `.csv` while it is read.
    """
    folder = Path(dataset_path)
    if is_table(folder) and not folder.is_dir():
        return open_tables([folder], reading)
    urls = folder / "url_lists" / f"all_{split}.txt"
    if not urls.parent.is_dir():
        by_split = group_tables(dataset_path)
        if split in by_split:
            check_no_copies(folder, split, by_split[split])
            return open_tables(by_split[split], reading, note_unnamed(dataset_path, by_split.get(None, [])))
    lines = read_text(urls, reading.encoding, FIX, "download it again").split("\n")
    urls_of_split = [line.strip() for line in lines if line.strip()]
    return [StoryFile(dataset_path, url, reading.encoding, takes_all(reading)) for url in urls_of_split]


def takes_all(reading: Reading) -> bool:
    """Whether all highlights of a story are one completion."""
    return reading.highlights == "all"


def is_table(path: Path) -> bool:
    """Whether a file is a table of stories by its name."""
    return path.suffix == ".parquet" or plain_suffix(path) == ".csv"


def group_tables(dataset_path: str) -> dict[str | None, list[Path]]:
    """The tables of a folder by the split that their names tell, None if they tell none."""
    folder = Path(dataset_path)
    by_split: dict[str | None, list[Path]] = {}
    for path in map(Path, list_files(dataset_path) if folder.is_dir() else ()):
        below = path.relative_to(folder)
        if is_table(path) and path.is_file() and not str(below).startswith("."):
            by_split.setdefault(split_of(below), []).append(path)
    return by_split


def check_no_copies(folder: Path, split: str, files: Sequence[Path]) -> None:
    """Raises InputError if the tables of a split hold it more than once, as in several versions."""
    copies = {(path.parent, find_series(path.stem), path.suffix) for path in files}
    if len(copies) > 1:
        folders = sorted({parent for parent, *_ in copies})
        places = folders if len(folders) > 1 else files
        names = ", ".join(str(place.relative_to(folder)) for place in places[:5]) + (", …" if places[5:] else "")
        raise InputError(f"{split} is there {len(copies)} times, in {names}: give one of them", "data", folder)


def find_series(stem: str) -> str:
    """What the files that make up a split together have in common in their names: files of two series are two copies.

    Example:
        >>> find_series("train-00001-of-00003"), find_series("train"), find_series("train_part2")
        ('-of-00003', 'train', '')
    """
    shards = SHARDS.search(stem)
    return shards[0] if shards else stem if is_split_name(stem) else ""


def open_tables(paths: list[Path], reading: Reading, notes: Sequence[Note] = ()) -> Iterable[TableStory | Note]:
    """The rows of tables of one kind, after notes."""
    is_parquet = paths[0].suffix == ".parquet"
    return ParquetRows(paths, reading, notes) if is_parquet else read_csv_rows(paths, reading, notes)


def read_csv_rows(paths: list[Path], reading: Reading, notes: Sequence[Note]) -> Iterator[TableStory | Note]:
    """Yields the rows of comma-separated files, such as Kaggle's. The column `id` names them if there is one."""
    yield from notes
    for path in paths:
        rows = read_rows(split_lines(decode(read_blocks(path), path, reading.encoding, ENCODING_FIX)), ",", path)
        names = [cell.strip() for cell in next(rows, [])]
        check_columns(path, names)
        for number, row in enumerate(rows, start=1):
            cells = dict(zip(names, row, strict=True)) if len(row) == len(names) else {}  # a delimiter in a text
            name = cells.get("id") or f"{path}:{number}"
            yield TableStory(name, cells.get("article"), cells.get("highlights"), takes_all(reading))


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Raises InputError unless a table has the columns of a story."""
    missing = [name for name in NAMES if name not in names]
    if missing:
        columns = f"no column {', '.join(missing)}, only {', '.join(names)}"
        raise InputError(f"{path}: {columns}: give the data set with article and highlights")


class ParquetRows:
    """The rows of Parquet files, read a few hundred at a time. The column `id` names them if there is one."""

    def __init__(self, paths: list[Path], reading: Reading, notes: Sequence[Note]):
        self.takes_all, self.notes = takes_all(reading), notes
        self.columns = {path: list_columns(path) for path in paths}
        self.rows = sum(rows for rows, _ in self.columns.values())

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[TableStory | Note]:
        yield from self.notes
        for path, (_, columns) in self.columns.items():
            for number, row in enumerate(iterate_rows(path, columns), start=1):
                yield TableStory(row.get("id") or f"{path}:{number}", row["article"], row["highlights"], self.takes_all)


def list_columns(path: Path) -> tuple[int, list[str]]:
    """How many rows a Parquet file has, and the names of the columns to read."""
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        check_columns(path, names)
        return file.metadata.num_rows, [*NAMES, *(["id"] if "id" in find_text_columns(file) else [])]


def example(item: StoryFile | TableStory) -> Example:
    """The cleaned article and its highlights. Raises Unusable if either is missing, InputError for broken text."""
    if isinstance(item, StoryFile):
        name, path = item.url, Path(item.folder) / story_path(item.url)
        if not path.is_file():
            raise Unusable("no readable story file", name)
        text = clean(read_text(path, item.encoding, encoding_fix=ENCODING_FIX))
    else:
        name = item.name
        lines = item.highlights.split("\n") if isinstance(item.highlights, str) else item.highlights
        if not isinstance(item.article, str) or not isinstance(lines, list):
            raise Unusable("article or highlights are missing or not text", name)
        highlighted = "".join(f"\n\n{HIGHLIGHT}\n\n{line}" for line in lines)
        article = item.article.strip()
        is_line = "\n" not in article
        text = repair(drop_beginning(article) + highlighted) if is_line else clean(article + highlighted)
    article, *highlights = text.split(HIGHLIGHT)
    highlights = [highlight for highlight in highlights if highlight.strip()]
    if not article.strip() or not highlights:
        raise Unusable("no article" if highlights else "no highlight", name)
    completions = (join_highlights(highlights),) if item.takes_all else tuple(highlights)
    return Example(name, article.strip(), (Turn(SEPARATOR, completions),))


def join_highlights(highlights: Iterable[str]) -> str:
    """A whole summary: a highlight per line, as few end with a full stop.

    Example:
        >>> join_highlights(["\\n\\nLamps were lit\\n\\n", "\\n\\nBoats came\\n home."])
        'Lamps were lit\\nBoats came home.'
    """
    return "\n".join(" ".join(highlight.split()) for highlight in highlights)


def story_path(url: str) -> Path:
    """The path of a URL's story within the data set."""
    site = "dailymail" if any(host in url for host in DAILY_MAIL) else "cnn"
    return Path(site, "stories", hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest() + ".story")


def clean(text: str) -> str:
    """A story, highlights included, without bylines, datelines and time stamps, its characters repaired by ftfy."""
    text = text.strip()
    if is_byline(text.partition("\n")[0]):
        text = "\n".join(text.split("\n")[2:])
    text = text.rpartition(DATELINE)[2]
    place = text.find("(CNN)", 0, 100)
    if place >= 0:
        text = text[place + len("(CNN)") :]
    text = AND_LINE.sub("", text)
    ends = [0, *(stamp.end() for stamp in UPDATED.finditer(text))]
    return repair(text[ends[-1] :])


def is_byline(line: str) -> bool:
    """Whether a line is the word "By", alone or followed by a name, and not the beginning of a sentence.

    Example:
        >>> is_byline("By Jane Doe for the Orrin Times"), is_byline("By the time the lamps were lit")
        (True, False)
    """
    by, *words = line.split()[:20] or [""]
    if by != "By":
        return False
    names = [word for word in words if word not in SMALL_WORDS]
    is_name = len(words) <= 15 and all(name[0].isupper() and not any(map(str.isdecimal, name)) for name in names)
    is_sentence = len(words[-1]) > 4 and words[-1][-1] in ".!?…" if words else False  # not an initial, nor "Jr."
    return is_name and not is_sentence and (not words or words[0] == "." or words[0][0].isupper())


def drop_beginning(article: str) -> str:
    """An article of one line without the byline and the time stamps at its beginning.

    Example:
        >>> drop_beginning("By . Jane Doe . PUBLISHED: . 14:11 EST, 25 October 2013 . Lamps were lit.")
        'Lamps were lit.'
    """
    first = FIRST_LINE.match(article)
    if first and (first[1].startswith("By . ") or is_byline(first[1])):
        article = article[first.end() :]
        second = SECOND_AUTHOR.match(article)
        if second and is_byline(f"By {second[1]}"):
            article = article[second.end() :]
    stamps = STAMPS.match(article)
    return article[stamps.end() :] if stamps else article


def repair(text: str) -> str:
    """A text with straight single quotes, its characters repaired by ftfy, and at most one blank line in a row."""
    text = text.replace("‘", "'").replace("’", "'")
    return re.sub(r"\n{3,}", "\n\n", ftfy.fix_text(text))


def lead(text: str) -> list[str]:
    """The first sentences of a text, tokenized."""
    return [tokenize(sentence) for sentence in split_sentences(text)[:LEAD]]


def summary(samples: Sequence[str], highlights: str) -> list[str]:
    """The tokenized sentences of a summary.

    Args:
        samples: of the model. Each of several is one sentence, as the 2019 script wrote them; of one the first
            sentences count, or all if it was asked for all highlights.
        highlights: see `Reading`.
    """
    if len(samples) > 1:
        return [tokenize(" ".join(sample.split())) for sample in samples if sample.strip()]
    return [tokenize(sentence) for sentence in split_sentences(samples[0])] if highlights == "all" else lead(samples[0])


def expected_sentences(completions: Sequence[str], highlights: str) -> list[str]:
    """The tokenized highlights of a story, from its completions."""
    lines = completions[0].split("\n") if highlights == "all" else completions
    return [tokenize(" ".join(line.split())) for line in lines]


def write(predictions: Sequence[Prediction], highlights: str = "one") -> str:
    """One summary per line, its tokenized sentences in `<t> … </t>`."""
    return "".join(join_tagged(summary(prediction.completions, highlights)) + "\n" for prediction in predictions)


def score(
    predictions: Sequence[Prediction], dataset_path: str, split: str, references: str | None, highlights: str = "one"
) -> Scores:
    """ROUGE of the summaries and of LEAD-3, the articles' first three sentences; and the share of texts that repeat.

    references: a file of tagged references, one line for each story of the split; by default all the highlights.
    """
    ours = [summary(prediction.completions, highlights) for prediction in predictions]
    leads = [lead(prediction.example.passage) for prediction in predictions]
    if references is None:
        expected = [expected_sentences(each.example.turns[0].completions, highlights) for each in predictions]
    else:
        lines = rouge.read_tagged(references)
        last = predictions[-1].number
        if len(lines) <= last:
            message = f"{len(lines)} lines, but {split} has at least {last + 1} stories: give one line for each story"
            raise InputError(message, "references", references)
        expected = [lines[prediction.number] for prediction in predictions]
    unseen = rouge.measure_unseen([*ours, *expected])
    warning: Scores = {"share of letters in which ROUGE-1.5.5 sees no words": {"not a to z": {"share": unseen}}}
    return {
        **(warning if unseen > 0.5 else {}),
        "summaries": rouge.to_table(rouge.score_corpus(ours, expected)),
        f"LEAD-{LEAD}": rouge.to_table(rouge.score_corpus(leads, expected)),
        "share of texts with a repeated n-gram": {
            f"{n}-gram": {"summaries": share_with_repeats(ours, n), "references": share_with_repeats(expected, n)}
            for n in (2, 3, 4)
        },
    }


def check(
    examples: Sequence[tuple[int, Example]],
    dataset_path: str,
    split: str,
    references: str | None,
    highlights: str = "one",
) -> None:
    """Raises InputError if the summaries of these stories could not be scored: scores the last one's own highlight."""
    number, story = examples[-1]
    score([Prediction(number, story, story.turns[0].completions[:1])], dataset_path, split, references, highlights)
