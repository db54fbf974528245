"""Texts as the common ROUGE scripts hand them over: sentences apart, words apart as in the Penn Treebank."""

import functools
from collections.abc import Sequence
from typing import Any

import sentencex


def sentences(text: str) -> list[str]:
    """The sentences of an English text; a line break ends one too."""
    found = [sentence.strip() for line in text.splitlines() for sentence in sentencex.segment("en", line)]
    return [sentence for sentence in found if sentence]


@functools.cache
def treebank() -> Any:
    from nltk.tokenize.treebank import TreebankWordTokenizer  # takes half a second, and most commands need it not

    return TreebankWordTokenizer()


def tokenized(sentence: str) -> str:
    """Words and punctuation apart by one space, brackets as `-LRB-` and `-RRB-`."""
    return " ".join(treebank().tokenize(sentence, convert_parentheses=True))


def tagged(text: Sequence[str]) -> str:
    """Tokenized sentences as one line, each in `<t> … </t>`."""
    return " ".join(f"<t> {sentence} </t>" for sentence in text) or "<t></t>"


def repeated(texts: Sequence[Sequence[str]], n: int) -> float:
    """The share of texts, each a list of tokenized sentences, in one of whose sentences, or in two of them, the same
    `n` words in a row stand twice."""
    return sum(repeats(text, n) for text in texts) / len(texts)


def repeats(text: Sequence[str], n: int) -> bool:
    split = [sentence.lower().split() for sentence in text]
    ngrams = [tuple(words[i : i + n]) for words in split for i in range(len(words) - n + 1)]
    return len(set(ngrams)) < len(ngrams)
