"""The proof that a model arrived in another format: what it computes there, beside what it computes here."""

import math
from typing import NamedTuple, Protocol

import numpy as np

from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.evaluation.logprobs import log_softmax_at

PROMPT, GREEDY = 16, 64  # the first tokens of the text, and how many are added to them


class LogitsOf(Protocol):
    """A model in another program."""

    def __call__(self, ids: np.ndarray, steps: int = 0) -> np.ndarray:
        """The float32 logits [T, n_vocab] of the token after each of ids, int [T].

        steps: how many of the last ids are added one at a time, each to the cache of those before it.
        """


def split_steps(ids: np.ndarray, steps: int) -> list[np.ndarray]:
    """The ids that are run together, and each of the last `steps` by itself.

    Example:
        >>> split_steps(np.array([5, 6, 7, 8]), 2)
        [array([5, 6]), array([7]), array([8])]
    """
    return np.split(ids, range(len(ids) - steps, len(ids)))


class Expected(NamedTuple):
    """What our model computes.

    text: token ids, int [T].
    logits: of the token after each of them, float32 [T, n_vocab].
    prompt: the first tokens of the text, int [P].
    greedy: the tokens that our model likes best after these, int [G].
    steps: the logits that they have the largest of, float32 [G, n_vocab].
    """

    text: np.ndarray
    logits: np.ndarray
    prompt: np.ndarray
    greedy: np.ndarray
    steps: np.ndarray


class Proof(NamedTuple):
    """What an exported model computes beside ours.

    difference: the largest difference of two logits, of the text and of the greedy tokens.
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

    def holds(self, most: float) -> bool:
        """Whether it is the same model. It is not if it computes NaN.

        The difference is also that of the greedy tokens' logits. So these tokens are equal, but for ties.

        most: the difference that the format and its precision may make, as a share of the spread.
        """
        return self.difference <= most * self.spread

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
    prompt, state = text[: min(PROMPT, n_ctx // 2)], decoder.begin()
    steps = [decoder.extend(state, [prompt.tolist()], [1])[0]]
    for _ in range(min(GREEDY, n_ctx - len(prompt)) - 1):
        steps.append(decoder.extend(state, [[int(steps[-1].argmax())]])[0])
    return Expected(text, logits, prompt, np.argmax(steps, axis=-1), np.array(steps))


def prove(expected: Expected, logits_of: LogitsOf) -> Proof:
    """Compares an exported model with ours.

    Its greedy tokens are those that it likes best after ours, which are added one at a time to its cache. While both
    are equal, they are what it would write.
    """
    begin, greedy = expected.prompt, expected.greedy
    theirs, continued = logits_of(expected.text), logits_of(np.concatenate([begin, greedy[:-1]]), len(greedy) - 1)
    their_steps = continued[len(begin) - 1 :]
    pairs = [
        *zip(expected.logits, theirs, strict=True),
        *zip(expected.steps, their_steps, strict=True),
    ]
    difference = float(np.max([np.abs(ours - other).max() for ours, other in pairs]))
    spread = float(np.mean([ours.std() for ours, _ in pairs]))
    perplexities = measure_perplexity(expected.logits, expected.text), measure_perplexity(theirs, expected.text)
    parted = np.flatnonzero(their_steps.argmax(axis=-1) != greedy)
    return Proof(difference, spread, int(parted[0]) if parted.size else len(greedy), len(greedy), perplexities)


def measure_perplexity(logits: np.ndarray, text: np.ndarray) -> float:
    """The perplexity of a text but for its first token, by the logits [T, n_vocab] after each of its tokens."""
    return math.exp(-log_softmax_at(logits[:-1], text[1:]).mean())
