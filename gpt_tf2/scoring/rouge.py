"""ROUGE-1, -2 and -L (Lin 2004), to the digit as ROUGE-1.5.5 prints them with `-c 95 -n 2 -a -r 1000 -m`.

The common scripts hand texts to that program as HTML, so `<` and `>` in a text are `&lt;` and `&gt;`, whose letters
count as words, and number the pairs from 0. Published figures contain both; so do these.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gpt_tf2.backend.processes import in_processes
from gpt_tf2.scoring.porter import stem
from gpt_tf2.storage.files import read_utf8

RESAMPLES = 1000
FEW = 500  # pairs that are scored before other processes would have started
CHUNK = 64  # pairs that a process is given at a time
MEASURES = ("recall", "precision", "f1")
NAMES = tuple(f"{rouge}/{measure}" for rouge in ("rouge-1", "rouge-2", "rouge-l") for measure in MEASURES)
LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
SENTENCE = re.compile(r"<t>\s*(.*?)\s*</t>")
NOT_A_WORD = re.compile("[^a-z0-9]+")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval, shares of 1, both of bootstrap resampling."""

    mean: float
    low: float
    high: float


def read_tagged(path: str | Path) -> list[list[str]]:
    """The texts of a file, one a line, each as its sentences: those in `<t> … </t>`, or the whole line if it has none.

    Raises InputError if the file cannot be read.
    """
    return [SENTENCE.findall(line) if "<t>" in line else [line] for line in read_utf8(path).splitlines()]


def score_corpus(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, Interval]:
    """The figures of a corpus, by `rouge-1/recall` and so on.

    Args:
        predictions, references: pair by pair, each text as its sentences.
    """
    pairs = list(zip(predictions, references, strict=True))
    if len(pairs) < FEW:
        scores = score_pairs(pairs)
    else:
        chunks = ((pairs[start : start + CHUNK],) for start in range(0, len(pairs), CHUNK))
        scores = [row for rows in in_processes(score_pairs, chunks) for row in rows]
    return dict(zip(NAMES, intervals(np.array(scores)), strict=True))


def score_pairs(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[list[float]]:
    return [score_pair(*pair) for pair in pairs]


def figures(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """Intervals as rows of figures by name."""
    return {name: dataclasses.asdict(interval) for name, interval in intervals.items()}


def score_pair(prediction: Sequence[str], reference: Sequence[str]) -> list[float]:
    """The nine figures of one pair, in the order of NAMES, each rounded to five digits as the program rounds them."""
    ours, theirs = [words(sentence) for sentence in prediction], [words(sentence) for sentence in reference]
    our_words, their_words = [w for s in ours for w in s], [w for s in theirs for w in s]
    found = []
    for n in (1, 2):
        hits = ngrams(our_words, n) & ngrams(their_words, n)
        found += measures(hits.total(), len(our_words) - n + 1, len(their_words) - n + 1)
    return found + measures(union_lcs(ours, theirs), len(our_words), len(their_words))


def words(sentence: str) -> list[str]:
    """The stems of a sentence's words: runs of ASCII letters and digits, lower-cased."""
    escaped = sentence.replace("<", "&lt;").replace(">", "&gt;")
    return [stem(word) for word in NOT_A_WORD.split(escaped.translate(LOWER)) if word]


def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def measures(hits: int, predicted: int, expected: int) -> list[float]:
    """Recall, precision and F1 of counts; F1 is that of the rounded two, as in the program."""
    recall = round5(hits / expected) if expected > 0 else 0.0
    precision = round5(hits / predicted) if predicted > 0 else 0.0
    total = precision + recall
    return [recall, precision, round5(precision * recall / (0.5 * total)) if total else 0.0]


def round5(value: float) -> float:
    return float(f"{value:.5f}")


def union_lcs(prediction: list[list[str]], reference: list[list[str]]) -> int:
    """Section 3.2: the words of each reference sentence that lie in its longest common subsequence with any sentence of
    the prediction, no word counted more often than either text has it."""
    left = Counter(w for s in prediction for w in s) & Counter(w for s in reference for w in s)
    ids: dict[str, int] = {}
    ours = [np.array([ids.setdefault(word, len(ids)) for word in sentence], "int64") for sentence in prediction]
    hits = 0
    for sentence in reference:
        theirs = np.array([ids.setdefault(word, len(ids)) for word in sentence], "int64")
        marked = {place for own in ours for place in lcs_places(theirs, own)}
        for place in sorted(marked):
            word = sentence[place]
            if left[word] > 0:
                left[word] -= 1
                hits += 1
    return hits


def lcs_places(reference: np.ndarray, prediction: np.ndarray) -> list[int]:
    """Where a longest common subsequence lies in the reference; of several the one that the program takes."""
    equal = reference[:, None] == prediction[None, :]
    length = np.zeros((len(reference) + 1, len(prediction) + 1), "int32")
    for i, row in enumerate(equal):
        # Its left neighbour never exceeds a cell by the greatest to its left: the running maximum is the recurrence.
        length[i + 1, 1:] = np.maximum.accumulate(np.maximum(length[i, 1:], length[i, :-1] + row))
    places = []
    i, j = len(reference), len(prediction)
    while i and j:
        if equal[i - 1, j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif length[i - 1, j] >= length[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return places


def intervals(scores: np.ndarray) -> list[Interval]:
    """Bootstrap means and intervals of each column of scores [pairs, figures].

    The program draws with Perl's generator, seeded with each resample's number, from the pairs in the alphabetical
    order of their numbers: so do we, and its means, which are those of the resamples, come out to the digit.
    """
    pairs = len(scores)
    ordered = scores[sorted(range(pairs), key=str)]
    # drand48: x → 0x5DEECE66D·x + 0xB modulo 2^48, begun at seed·2^16 + 0x330E.
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
