"""The proof that a model arrived in another format: what it computes there, beside what it computes here."""

from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from gpt_tf2.decoding.reference import PART
from gpt_tf2.evaluation.logprobs import log_softmax_at

PROMPT, GREEDY = 16, 64  # the first tokens of the text, and how many are added to them


class LogitsOf(Protocol):
    """A model in a program."""

    def __call__(self, ids: np.ndarray, steps: int = 0) -> Iterable[np.ndarray]:
        """The float32 logits of the token after each of ids, int [T]: arrays [t, n_vocab] of the first t, the next t …

        steps: how many of the last ids are added one at a time, each to the cache of those before it.
        """


class Network(Protocol):
    """A model of ours; see `Reference`."""

    def begin(self) -> Any:
        """A cache without tokens."""

    def extend(self, cache: Any, ids: np.ndarray) -> Iterable[np.ndarray]:
        """The logits of the token after each of ids, which join the cache; as of `LogitsOf`."""


def split_steps(ids: np.ndarray, steps: int, part: int = PART) -> list[np.ndarray]:
    """The ids in parts that are run together, and each of the last `steps` by itself.

    Example:
        >>> split_steps(np.array([5, 6, 7, 8, 9]), 2, part=2)
        [array([5, 6]), array([7]), array([8]), array([9])]
    """
    first = len(ids) - steps
    return np.split(ids, [*range(part, first, part), *range(first, len(ids))])


class Expected(NamedTuple):
    """What our model computes.

    text: token ids, int [T].
    logits: a file of those of the token after each of them, float32 [T, n_vocab].
    prompt: the first tokens of the text, int [P].
    greedy: the tokens that our model likes best after these, int [G].
    steps: the logits that they have the largest of, float32 [G, n_vocab].
    """

    text: np.ndarray
    logits: IO[bytes]
    prompt: np.ndarray
    greedy: np.ndarray
    steps: np.ndarray

    def read_logits(self) -> Iterator[np.ndarray]:
        """The logits [n_vocab] of the token after each of the text."""
        self.logits.seek(0)
        for _ in self.text:
            yield np.fromfile(self.logits, "float32", self.steps.shape[1])


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


def compute_expected(network: Network, n_ctx: int, text: np.ndarray, logits: IO[bytes]) -> Expected:
    """What our model computes.

    Args:
        n_ctx: its context.
        text: token ids, int [N], at least 2; as many as fit the context are used.
        logits: an empty file that they are written to; for a text of 1,024 tokens they would fill 0.2 GB of memory.
    """
    text = text[:n_ctx]
    for part in network.extend(network.begin(), text):
        part.tofile(logits)
    prompt, cache = text[: min(PROMPT, n_ctx // 2)], network.begin()
    *_, last = each_row(network.extend(cache, prompt))
    steps = [last]
    for _ in range(min(GREEDY, n_ctx - len(prompt)) - 1):
        steps += each_row(network.extend(cache, np.array([steps[-1].argmax()])))
    return Expected(text, logits, prompt, np.argmax(steps, axis=-1), np.array(steps))


def prove(expected: Expected, logits_of: LogitsOf) -> Proof:
    """Compares an exported model with ours.

    Its greedy tokens are those that it likes best after ours, which are added one at a time to its cache. While both
    are equal, they are what it would write.
    """
    text, begin, greedy = expected.text, expected.prompt, expected.greedy
    differences, spreads, logprobs = [], [], []
    following = np.append(text[1:], 0)  # the last is not in the text
    rows = zip(expected.read_logits(), each_row(logits_of(text)), following[:, None], strict=True)
    for ours, theirs, token in rows:
        differences.append(np.abs(ours - theirs).max())
        spreads.append(ours.std())
        logprobs.append([log_softmax_at(logits[None], token)[0] for logits in (ours, theirs)])
    continued = each_row(logits_of(np.concatenate([begin, greedy[:-1]]), len(greedy) - 1))
    their_steps = np.array([*continued][len(begin) - 1 :])
    for ours, theirs in zip(expected.steps, their_steps, strict=True):
        differences.append(np.abs(ours - theirs).max())
        spreads.append(ours.std())
    perplexities = np.exp(-np.mean(logprobs[:-1], axis=0))
    parted = np.flatnonzero(their_steps.argmax(axis=-1) != greedy)
    equal = int(parted[0]) if parted.size else len(greedy)
    return Proof(
        float(np.max(differences)),  # which is NaN if one is
        float(np.mean(spreads)),
        equal,
        len(greedy),
        (float(perplexities[0]), float(perplexities[1])),
    )


def each_row(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The logits [n_vocab] one by one."""
    for part in parts:
        yield from part
