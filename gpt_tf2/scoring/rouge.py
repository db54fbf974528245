"""ROUGE-1, -2 and -L (Lin 2004), to the digit as ROUGE-1.5.5 prints them with `-c 95 -n 2 -a -r 1000 -m`.

The common scripts pass texts to that program as HTML, so `<` and `>` become `&lt;` and `&gt;`, whose letters count as
words. They also number the pairs from 0. Both affect published scores, so both are reproduced here.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.backend.processes import map_in_processes
from gpt_tf2.scoring.porter import stem
from gpt_tf2.storage.text_files import read_lines

RESAMPLES = 1000
PARALLEL_FROM = 500  # pairs; fewer are scored before other processes would have started
CHUNK = 64  # pairs per task of a process
COLUMNS = 512  # of the table of ROUGE-L that are in memory at a time
MEASURES = ("recall", "precision", "f1")
NAMES = tuple(f"{rouge}/{measure}" for rouge in ("rouge-1", "rouge-2", "rouge-l") for measure in MEASURES)
LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
SENTENCE = re.compile(r"<t>\s*(.*?)\s*</t>")
NOT_A_WORD = re.compile("[^a-z0-9]+")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval, all three 0 to 1 and from bootstrap resampling."""

    mean: float
    low: float
    high: float


def read_tagged(path: str | Path) -> list[list[str]]:
    """The texts of a file, one per line, each as a list of sentences.

    The sentences of a line are in `<t> … </t>`. A line without tags is one sentence.

    Raises InputError if the file cannot be read.
    """
    return [SENTENCE.findall(line) if "<t>" in line else [line] for line in read_lines(path)]


def score_corpus(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, Interval]:
    """The scores of a corpus, `rouge-1/recall`, `rouge-1/precision` and so on; see NAMES.

    Args:
        predictions: texts, each a list of sentences.
        references: the reference for each prediction, in the same form.

    Example:
        >>> score_corpus([["The tide turned."]], [["The tide has turned."]])["rouge-1/recall"]
        Interval(mean=0.75, low=0.75, high=0.75)
    """
    pairs = list(zip(predictions, references, strict=True))
    if len(pairs) < PARALLEL_FROM:
        scores = score_pairs(pairs)
    else:
        chunks = ((pairs[start : start + CHUNK],) for start in range(0, len(pairs), CHUNK))
        scores = [score for chunk in map_in_processes(score_pairs, chunks) for score in chunk]
    return dict(zip(NAMES, bootstrap(np.array(scores)), strict=True))


def to_table(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """The scores as a table, row → column → value."""
    return {name: dataclasses.asdict(interval) for name, interval in intervals.items()}


def score_pairs(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[list[float]]:
    return [score_pair(*pair) for pair in pairs]


def score_pair(prediction: Sequence[str], reference: Sequence[str]) -> list[float]:
    """The nine scores of one pair, in the order of NAMES, each rounded to five decimals as in the program."""
    predicted, expected = [stem_words(s) for s in prediction], [stem_words(s) for s in reference]
    predicted_words, expected_words = [w for s in predicted for w in s], [w for s in expected for w in s]
    scores = []
    for n in (1, 2):
        hits = count_ngrams(predicted_words, n) & count_ngrams(expected_words, n)
        scores += recall_precision_f1(hits.total(), len(predicted_words) - n + 1, len(expected_words) - n + 1)
    hits_l = count_lcs_words(predicted, expected)
    return scores + recall_precision_f1(hits_l, len(predicted_words), len(expected_words))


def stem_words(sentence: str) -> list[str]:
    """The stems of a sentence's words, which are runs of ASCII letters and digits, in lower case.

    Example:
        >>> stem_words("The re-entry of 2 Geese")
        ['the', 're', 'entri', 'of', '2', 'goose']
    """
    escaped = sentence.replace("<", "&lt;").replace(">", "&gt;")
    return [stem(word) for word in NOT_A_WORD.split(escaped.translate(LOWER)) if word]


def measure_unseen(texts: Sequence[Sequence[str]]) -> float:
    """The share of the letters of texts, each a list of sentences, that are no ASCII letters, and so in no word.

    Example:
        >>> measure_unseen([["прилив 12"], ["the tide"]])
        0.46153846153846156
    """
    letters = [letter for sentences in texts for sentence in sentences for letter in sentence if letter.isalpha()]
    return sum(not letter.isascii() for letter in letters) / len(letters) if letters else 0.0


def count_ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def recall_precision_f1(hits: int, predicted: int, expected: int) -> list[float]:
    """The three measures of counts, each rounded. As in the program, F1 is computed from the rounded two."""
    recall = round5(hits / expected) if expected > 0 else 0.0
    precision = round5(hits / predicted) if predicted > 0 else 0.0
    total = precision + recall
    return [recall, precision, round5(precision * recall / (0.5 * total)) if total else 0.0]


def round5(value: float) -> float:
    return float(f"{value:.5f}")


def count_lcs_words(prediction: list[list[str]], reference: list[list[str]]) -> int:
    """The hits of ROUGE-L (section 3.2): the reference's words in the union of longest common subsequences.

    The union is over each reference sentence with every sentence of the prediction. No word counts more often than it
    occurs in either text.
    """
    unused = Counter(w for s in prediction for w in s) & Counter(w for s in reference for w in s)
    hits = 0
    for sentence in reference:
        union = {position for other in prediction for position in find_lcs(sentence, other)}
        for position in sorted(union):
            word = sentence[position]
            if unused[word] > 0:
                unused[word] -= 1
                hits += 1
    return hits


def find_lcs(reference: Sequence[str], prediction: Sequence[str]) -> list[int]:
    """The positions in `reference` of a longest common subsequence: of several, the one that the program finds.

    The program fills a table with the length of the LCS of the first i words of the reference and the first j of the
    prediction. Two neighbours in a column differ by 0 or 1, so a column is one integer of as many bits, and the next
    column follows from it in four operations (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"). Memory
    stays small for texts of any length: only every `COLUMNS`-th column is kept, and those between are computed again.
    """
    positions_of: dict[str, int] = {}  # word → a bit for each of its positions
    for i, word in enumerate(reference):
        positions_of[word] = positions_of.get(word, 0) | 1 << i
    hits = [positions_of.get(word, 0) for word in prediction]
    blocks = [hits[start : start + COLUMNS] for start in range(0, len(hits), COLUMNS)]
    edges = [(1 << len(reference)) - 1]  # the column before each block: bit i is 0 where the length grows at word i
    columns: list[int] = []
    for block in blocks:
        columns = compute_columns(edges[-1], block, edges[0])
        edges.append(columns[-1])
    positions = []
    i = len(reference) - 1
    for number in reversed(range(len(blocks))):
        if number < len(blocks) - 1:
            columns = compute_columns(edges[number], blocks[number], edges[0])
        start, j = number * COLUMNS, len(columns) - 1
        while i >= 0 and j >= 0:
            if reference[i] == prediction[start + j]:
                positions.append(i)
                i, j = i - 1, j - 1
            elif columns[j] >> i & 1:  # the cell above holds the same length
                i -= 1
            else:
                j -= 1
    return positions


def compute_columns(column: int, hits: Sequence[int], mask: int) -> list[int]:
    """The columns that follow a column of the table.

    Args:
        hits: for each word of the prediction, the bits of its positions in the reference.
        mask: a bit for each word of the reference.
    """
    columns = []
    for hit in hits:
        both = column & hit
        column = (column + both | column - both) & mask
        columns.append(column)
    return columns


def bootstrap(scores: np.ndarray) -> list[Interval]:
    """The bootstrap mean and interval of each column.

    The program draws the pairs of a resample with Perl's generator, seeded with the number of the resample, from a list
    sorted by the pairs' numbers as text. The same draws give the same digits.

    Args:
        scores: [pairs, 9].
    """
    pairs = len(scores)
    ordered = scores[sorted(range(pairs), key=str)]
    # drand48: x becomes 0x5DEECE66D·x + 0xB modulo 2^48, beginning at seed·2^16 + 0x330E.
    x = (np.arange(RESAMPLES, dtype="uint64") << np.uint64(16)) + np.uint64(0x330E)
    sums = np.zeros((RESAMPLES, scores.shape[1]))
    for _ in range(pairs):
        x = (x * np.uint64(0x5DEECE66D) + np.uint64(0xB)) & np.uint64(2**48 - 1)
        sums += ordered[(x / 2.0**48 * pairs).astype("int64")]
    ranked = np.sort(sums / pairs, axis=0)
    delta = RESAMPLES * 0.025
    upper, lower = int(RESAMPLES - delta - 1), int(delta)
    means = ranked.mean(axis=0)
    return [
        Interval(round5(means[k]), round5(ranked[lower, k]), round5(ranked[upper, k])) for k in range(scores.shape[1])
    ]
