"""Sentences and words as the common ROUGE scripts prepare them: split, tokenized as in the Penn Treebank, tagged."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import sentencex

LINE_BREAK = re.compile(r"\r\n?|\n")


def split_sentences(text: str) -> list[str]:
    """The sentences of an English text. A line break ends a sentence; a form feed and U+2028 are none.

    Example:
        >>> split_sentences("The tide turned. Mr. Orrin slept\\nThe boats came home.")
        ['The tide turned.', 'Mr. Orrin slept', 'The boats came home.']
    """
    sentences = [sentence.strip() for line in LINE_BREAK.split(text) for sentence in sentencex.segment("en", line)]
    return [sentence for sentence in sentences if sentence]


def tokenize(sentence: str) -> str:
    """The sentence with single spaces between words and punctuation, and brackets as `-LRB-` and `-RRB-`.

    Example:
        >>> tokenize("It wasn't (quite) home.")
        "It was n't -LRB- quite -RRB- home ."
    """
    return " ".join(load_treebank().tokenize(sentence, convert_parentheses=True))


@functools.cache
def load_treebank() -> Any:
    """NLTK's Penn Treebank tokenizer."""
    from nltk.tokenize.treebank import TreebankWordTokenizer  # takes half a second, and most commands do not need it

    return TreebankWordTokenizer()


def join_tagged(sentences: Sequence[str]) -> str:
    """Tokenized sentences on one line, each in `<t> … </t>`; see `rouge.read_tagged`."""
    return " ".join(f"<t> {sentence} </t>" for sentence in sentences) or "<t></t>"


def share_with_repeats(texts: Sequence[Sequence[str]], n: int) -> float:
    """The share of texts in which an n-gram occurs twice. A text is a list of tokenized sentences."""
    return sum(has_repeat(text, n) for text in texts) / len(texts)


def has_repeat(sentences: Sequence[str], n: int) -> bool:
    """Whether the same `n` words in a row occur twice, in one sentence or in two. Case is ignored."""
    split = [sentence.lower().split() for sentence in sentences]
    ngrams = [tuple(words[i : i + n]) for words in split for i in range(len(words) - n + 1)]
    return len(set(ngrams)) < len(ngrams)
