"""How the next token is chosen from logits. A rule is a small frozen dataclass that narrows logits [rows, n_vocab]."""

import dataclasses
from typing import Protocol

import numpy as np


class Rule(Protocol):
    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Logits [rows, n_vocab] → the same, -inf where a token is ruled out."""


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Divides the logits: below 1 sharper, above 1 flatter."""

    temperature: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        return logits / np.float32(self.temperature)


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keeps the `k` likeliest tokens (Fan et al. 2018, section 5.4)."""

    k: int

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        if self.k >= logits.shape[-1]:
            return logits
        ruled_out = np.argpartition(-logits, self.k - 1, axis=-1)[:, self.k :]
        kept = logits.copy()
        np.put_along_axis(kept, ruled_out, -np.inf, axis=-1)
        return kept


@dataclasses.dataclass(frozen=True)
class Nucleus:
    """Keeps the fewest likeliest tokens whose probabilities sum to at least `p` (Holtzman et al. 2020, section 3.1)."""

    p: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        if self.p >= 1:
            return logits
        order = np.argsort(-logits, axis=-1, kind="stable")
        probabilities = np.take_along_axis(softmax(logits), order, axis=-1)
        before = np.cumsum(probabilities, axis=-1) - probabilities
        kept = np.take_along_axis(logits, order, axis=-1)
        kept[before >= self.p] = -np.inf
        result = np.empty_like(logits)
        np.put_along_axis(result, order, kept, axis=-1)
        return result


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws from what the rules, applied in turn, leave.

    rules: None takes the likeliest token.
    """

    rules: tuple[Rule, ...] | None

    def choose(self, logits: np.ndarray, generators: list[np.random.Generator]) -> np.ndarray:
        """Logits [rows, n_vocab] → ids [rows]; each row draws from a generator of its own."""
        if self.rules is None:
            return np.argmax(logits, axis=-1)
        for rule in self.rules:
            logits = rule(logits)
        cumulative = np.cumsum(softmax(logits), axis=-1)
        chosen = []
        for row, generator in zip(cumulative, generators, strict=True):
            # The first id whose cumulative probability is above the draw: one of probability 0 never is.
            draw = min(generator.random() * row[-1], np.nextafter(row[-1], 0))
            chosen.append(np.searchsorted(row, draw, side="right"))
        return np.array(chosen)


def make_sampler(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Sampler:
    """Temperature, then top-k (0 keeps all), then the nucleus of what is left; temperature 0 or `top_k` 1 is greedy."""
    if temperature == 0 or top_k == 1:
        return Sampler(None)
    rules: list[Rule] = [Temperature(temperature)]
    if top_k:
        rules.append(TopK(top_k))
    if top_p < 1:
        rules.append(Nucleus(top_p))
    return Sampler(tuple(rules))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in float64."""
    exponents = np.exp(logits.astype("float64") - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)
