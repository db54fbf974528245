"""How the next token is chosen from logits. A rule is a small frozen dataclass that narrows the logits of one row."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gpt_tf2.generation.kernels import drawn, nucleus


class Rule(Protocol):
    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """Logits [n_vocab] of the token after `ids` → the same, -inf where a token is ruled out."""


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Makes less likely what stands there: divides its logit if positive, else multiplies (Keskar et al. 2019, 4.1)."""

    penalty: float

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        said = np.unique(np.asarray(ids, "int64"))
        result = logits.copy()
        result[said] = np.where(logits[said] > 0, logits[said] / self.penalty, logits[said] * self.penalty)
        return result


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Divides the logits: below 1 sharper, above 1 flatter."""

    temperature: float

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        return logits / np.float32(self.temperature)


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keeps the `k` likeliest tokens (Fan et al. 2018, section 5.4)."""

    k: int

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        if self.k >= len(logits):
            return logits
        return kept_alone(logits, np.argpartition(-logits, self.k - 1)[: self.k])


@dataclasses.dataclass(frozen=True)
class Nucleus:
    """Keeps the fewest likeliest tokens whose probabilities sum to at least `p` (Holtzman et al. 2020, section 3.1)."""

    p: float

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        if self.p >= 1:
            return logits
        return nucleus(logits, self.p)


@dataclasses.dataclass(frozen=True)
class MinP:
    """Keeps what is at least `p` times as likely as the likeliest (Nguyen et al. 2024, section 3)."""

    p: float

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        return np.where(logits >= logits.max() + np.float32(np.log(self.p)), logits, -np.inf).astype(logits.dtype)


@dataclasses.dataclass(frozen=True)
class MinimumLength:
    """Rules the end of the text out until so many tokens stand there, the prompt's among them."""

    end: int
    tokens: int

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        if len(ids) >= self.tokens:
            return logits
        result = logits.copy()
        result[self.end] = -np.inf
        return result


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws from what the rules, applied in turn, leave.

    greedy: takes the likeliest of it instead.
    """

    rules: tuple[Rule, ...] = ()
    greedy: bool = False

    def narrowed(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """Logits [n_vocab] after all rules; ids: what stands before the token."""
        for rule in self.rules:
            logits = rule(logits, ids)
        return logits

    def choose(self, logits: np.ndarray, ids: Sequence[int], generator: np.random.Generator) -> int:
        """The id of the next token of a row; takes one number from its generator unless greedy."""
        logits = self.narrowed(logits, ids)
        return int(np.argmax(logits)) if self.greedy else drawn(logits, generator.random())


def make_sampler(
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> Sampler:
    """Penalty, temperature, top-k (0 keeps all), the nucleus of what is left, min-p; temperature 0 or k 1 is greedy."""
    rules: list[Rule] = []
    if repetition_penalty != 1:
        rules.append(RepetitionPenalty(repetition_penalty))
    if temperature == 0 or top_k == 1:
        return Sampler(tuple(rules), greedy=True)
    if temperature != 1:
        rules.append(Temperature(temperature))
    if top_k:
        rules.append(TopK(top_k))
    if top_p < 1:
        rules.append(Nucleus(top_p))
    if min_p:
        rules.append(MinP(min_p))
    return Sampler(tuple(rules))


def kept_alone(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The logits of some ids, and -inf for all others."""
    result = np.full_like(logits, -np.inf)
    result[ids] = logits[ids]
    return result
