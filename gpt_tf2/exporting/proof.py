"""The proof that a model arrived in another format: what it computes there, beside what it computes here."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.logprobs import log_softmax_at

LogitsOf = Callable[[np.ndarray], np.ndarray]  # ids [T] → float32 logits [T, n_vocab] of the token after each
PROMPT, GREEDY = 16, 64  # the first tokens of the text, and how many are added to them
# The largest difference of a logit that a precision may make, as a share of the logits' standard deviation.
MOST = {"float32": 0.02, "float16": 0.1}
MOST_QUANTIZED = 0.5


class Expected(NamedTuple):
    """What our model computes on a text, int [T]: its logits [T, n_vocab], and the greedy continuation of its begin."""

    text: np.ndarray
    logits: np.ndarray
    prompt: np.ndarray
    greedy: np.ndarray


class Proof(NamedTuple):
    """What an exported model computes beside ours.

    difference: the largest difference of two logits of a text.
    spread: the standard deviation of our logits.
    equal: how many greedy tokens are equal before the two models part; of `greedy`.
    perplexities: of ours and of the exported model on the text.

    Example:
        >>> Proof(1e-4, 2.0, 64, 64, (25.0, 25.01)).describe()
        'largest logit difference 0.0001, 64 of 64 greedy tokens equal, perplexity 25.01 (here 25, +0.04%)'
    """

    difference: float
    spread: float
    equal: int
    greedy: int
    perplexities: tuple[float, float]

    def holds(self, precision: str) -> bool:
        """Whether the difference is one that the precision makes. It is not if the exported model computes NaN."""
        return self.difference <= MOST.get(precision, MOST_QUANTIZED) * self.spread

    def describe(self) -> str:
        """The figures in one line."""
        ours, theirs = self.perplexities
        tokens = f"{self.equal} of {self.greedy} greedy tokens equal"
        perplexity = f"perplexity {theirs:.5g} (here {ours:.5g}, {theirs / ours - 1:+.2%})"
        return f"largest logit difference {self.difference:.2g}, {tokens}, {perplexity}"


def compute_expected(decoder: Decoder, text: np.ndarray) -> Expected:
    """What our model computes.

    text: token ids, int [N], at least 2; as many as fit the context are used.
    """
    n_ctx = decoder.config.n_ctx
    text = text[:n_ctx]
    logits = decoder.extend(decoder.begin(), [text.tolist()])
    prompt, greedy, state = text[: min(PROMPT, n_ctx // 2)], [], decoder.begin()
    following = decoder.extend(state, [prompt.tolist()], [1])
    for _ in range(min(GREEDY, n_ctx - len(prompt))):
        greedy.append(int(following[-1].argmax()))
        following = decoder.extend(state, [greedy[-1:]])
    return Expected(text, logits, prompt, np.array(greedy))


def prove(expected: Expected, logits_of: LogitsOf) -> Proof:
    """Compares an exported model with ours.

    Its greedy tokens are those that it likes best after ours: as long as these are equal, they are what it would write.
    """
    theirs = logits_of(expected.text)
    pairs = list(zip(expected.logits, theirs, strict=True))
    difference = float(np.max([np.abs(ours - other).max() for ours, other in pairs]))
    spread = float(np.mean([ours.std() for ours, _ in pairs]))
    perplexities = measure_perplexity(expected.logits, expected.text), measure_perplexity(theirs, expected.text)
    begin, greedy = expected.prompt, expected.greedy
    liked = logits_of(np.concatenate([begin, greedy[:-1]]))[len(begin) - 1 :].argmax(axis=-1)
    parted = np.flatnonzero(liked != greedy)
    return Proof(difference, spread, int(parted[0]) if parted.size else len(greedy), len(greedy), perplexities)


def measure_perplexity(logits: np.ndarray, text: np.ndarray) -> float:
    """The perplexity of a text but for its first token, by the logits [T, n_vocab] after each of its tokens."""
    return math.exp(-log_softmax_at(logits[:-1], text[1:]).mean())
